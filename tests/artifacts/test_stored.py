"""An artefact's class names what is in its file; saving and loading follow from the names."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lse_interp.artifacts.format import load_artifact
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import ArtifactError


@dataclasses.dataclass(frozen=True)
class Author:
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Thing(Stored):
    KIND = "thing"
    AXES: ClassVar = {"grid": ("row", "column"), "control": ("row",)}
    TENSORS = ("weights",)
    META = ("codes", "author", "authors", "about")
    READ: ClassVar = dict.fromkeys(("author", "authors"), lambda values: Author(**values))

    codes: tuple[str, ...]
    author: Author
    authors: tuple[Author, ...]
    grid: Tensor
    weights: Tensor
    control: Tensor | None = None
    about: dict = dataclasses.field(default_factory=dict)


def make(**changes):
    values = {"grid": torch.eye(2), "weights": torch.arange(3), "about": {"seeds": [1, 2]}}
    who = {"author": Author("a"), "authors": (Author("b"), Author("c"))}
    return Thing(codes=("mlt", "isl"), **who, **(values | changes))


@pytest.mark.parametrize("control", [None, torch.ones(2)])
def test_what_is_saved_is_loaded(control, tmp_path):
    thing = make(control=control)
    found = Thing.load(thing.save(tmp_path / "thing.safetensors"))
    for name in (*Thing.AXES, *Thing.TENSORS):
        expected = getattr(thing, name)
        assert expected is getattr(found, name) or torch.equal(expected, getattr(found, name))
    for name in Thing.META:
        assert getattr(found, name) == getattr(thing, name)


def test_the_file_lists_the_axes_of_the_tensors_it_has(tmp_path):
    path = make().save(tmp_path / "thing.safetensors")
    tensors, meta = load_artifact(path, kind="thing", version=1)
    assert tensors.keys() == {"grid", "weights"}
    assert meta["axes"] == {"grid": ["row", "column"]}


def test_load_refuses_another_kind_and_version(tmp_path, monkeypatch):
    path = make().save(tmp_path / "thing.safetensors")
    for name, other in (("KIND", "other"), ("VERSION", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(Thing, name, other)
            with pytest.raises(ArtifactError, match="thing"):
                Thing.load(path)
