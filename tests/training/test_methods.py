"""The registry of methods: what each one says, and one that another package adds."""

import os
import subprocess
import sys

import pytest

from lse_interp.core.errors import LseError
from lse_interp.training.methods import METHODS, Method, method_looks, method_of

from .tiny_stage import Place

TOY = """
from lse_interp.training.methods import METHODS, Look, Method
from lse_interp.training.methods.neurons import load_rows, train_rows


def half(sets, *, language, variant, seed):
    return tuple(layer[::2] for layer in sets[language])


METHODS.register("half")(
    Method(
        name="half",
        rank=5,
        looks={"half": Look("Every other one", "#123456", 3)},
        choose=half,
        prepare=train_rows,
        load=load_rows,
        flags=("engine",),
    )
)
"""

# One process: help, training into the run folder, loading, a figure, and the deltas' method.
SCRIPT = """
import contextlib, io, sys
import matplotlib
matplotlib.use("agg")
from pathlib import Path
from lse_interp.finetune import main
from lse_interp.plotting.style import method_color, method_label, method_order
from lse_interp.subnetworks.find import finished_runs
from lse_interp.artifacts.paths import RunPaths
from lse_interp.subnetworks.load_tuned import load_tuned

shown = io.StringIO()
with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
    main(["--help"])
assert "half" in shown.getvalue()
model, root, *words = sys.argv[1:]
assert main(words) == 0
runs = finished_runs(RunPaths(root, model), "mlt")
assert list(runs) == ["half"], runs
tuned = load_tuned(runs["half"])
assert tuned.name.endswith("+mlt:half")
assert (method_label("half"), method_color("half")) == ("Every other one", "#123456")
assert method_order(["full", "half", "target"]) == ["target", "half", "full"]
"""


def test_every_method_says_what_others_ask_of_it():
    looks = method_looks()
    assert list(looks) == [
        *("target", "random:layer", "random:size", "random:activity", "lora", "ffn", "full")
    ]
    assert len({look.color for look in looks.values()}) == len(looks)
    for name in METHODS:
        method = METHODS[name]
        assert isinstance(method, Method)
        assert method.needs_neurons == (method.keep is None)
        assert method.label() in looks
        assert method_of(method.label()) is method
    with pytest.raises(LseError, match="There is no fine-tuning method 'targt'. Did you mean targ"):
        METHODS["targt"]


def test_another_package_adds_a_method(tmp_path):
    (tmp_path / "toy_methods.py").write_text(TOY, encoding="utf-8")
    about = tmp_path / "toy_methods-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-methods\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lse_interp.methods]\nhalf = toy_methods\n")
    place = Place(tmp_path / "place")
    words = place.arguments(method="half", n_tokens=60, name="half")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(place.model), str(place.root / "runs"), *words],
        env=os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
