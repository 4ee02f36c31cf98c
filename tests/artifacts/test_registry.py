"""An artefact of any kind is read by one function."""

import importlib

import pandas as pd
import pytest

import lse_interp
from lse_interp.__main__ import commands
from lse_interp.artifacts.format import save_artifact
from lse_interp.artifacts.registry import CLASSES, WRITERS
from lse_interp.core.errors import ArtifactError
from tests.faults import small_artefacts

PARTS = {"counting shard", "best weights"}
"""Files of unfinished work, which are no artefacts."""


def test_every_kind_has_a_class_that_loads_it_and_commands_write_known_kinds():
    assert WRITERS.keys() <= CLASSES.keys()
    assert set(WRITERS.values()) <= set(commands())
    for name in CLASSES.values():
        module, _, name = name.rpartition(".")
        assert callable(getattr(importlib.import_module(f"lse_interp.{module}"), name).load)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in small_artefacts.KINDS if kind not in PARTS],
)
def test_load_gives_what_the_class_itself_loads(kind, tmp_path):
    path = small_artefacts.saved(kind, tmp_path)
    assert small_artefacts.same(lse_interp.load(path), small_artefacts.load(kind, path))


@pytest.mark.parametrize("kind", [kind for kind in small_artefacts.KINDS if kind not in PARTS])
def test_every_artefact_is_a_tidy_frame(kind):
    frame = small_artefacts.KINDS[kind][0]().to_frame()
    assert len(frame)
    assert isinstance(frame.index, pd.RangeIndex)
    assert all(isinstance(name, str) for name in frame.columns)


def test_load_refuses_what_it_does_not_know(tmp_path):
    path = save_artifact(tmp_path / "a.safetensors", kind="thing", version=1, tensors={}, meta={})
    with pytest.raises(ArtifactError, match="holds `thing`, of no known kind"):
        lse_interp.load(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        lse_interp.load(tmp_path / "b.safetensors")
    with pytest.raises(ArtifactError, match="holds no finished fine-tuning run"):
        lse_interp.load(tmp_path)
