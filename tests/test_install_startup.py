"""Commands answer before torch is imported: --help, wrong flags, the list of stages."""

import subprocess
import sys

import pytest

from lse_interp.__main__ import commands

HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy", "matplotlib", "numpy", "pyarrow")
"""What takes long to import."""

# Runs a module as `python -m` does, and says which heavy ones it left behind.
RUN = f"""
import runpy, sys, warnings
warnings.simplefilter("error")
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    found = [name for name in {HEAVY!r} if name in sys.modules]
    print("imported:", *found, file=sys.stderr)
"""


def run_module(*words):
    return subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("stage", commands())
def test_help_imports_nothing_heavy(stage):
    done = run_module(f"lse_interp.{stage}", "--help")
    assert done.returncode == 0, done.stderr
    assert commands()[stage].split("`")[0][:40] in " ".join(done.stdout.split())
    assert "--root" in done.stdout
    assert done.stderr == "imported:\n"


@pytest.mark.parametrize("stage", commands())
def test_misspelt_flag_imports_nothing_heavy(stage):
    done = run_module(f"lse_interp.{stage}", "--rooot", "elsewhere")
    assert done.returncode == 2
    assert "--rooot" in done.stderr
    assert "imported:\n" in done.stderr


def test_list_of_stages_imports_nothing_heavy():
    done = run_module("lse_interp")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "imported:\n"


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, lse_interp; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_heavy_imports_are_found_where_there_are_some():
    done = run_module("lse_interp.overlap", "--neurons", "missing.safetensors")
    assert done.returncode == 2
    assert "missing.safetensors" in done.stderr
    assert "torch" in done.stderr.splitlines()[-1]
