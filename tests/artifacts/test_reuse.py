"""What becomes of a finished artefact: reused, made again, or refused under other settings."""

import contextlib
import dataclasses
import fcntl
from pathlib import Path

import pytest

from lse_interp.artifacts import reuse as reuse_module
from lse_interp.artifacts.reuse import (
    changed_options,
    differences,
    find_finished,
    require_same_settings,
    reuse_or_make,
)
from lse_interp.core.errors import MismatchError


@dataclasses.dataclass(frozen=True)
class Config:
    parallel: str = "embedded"
    split: str | None = None
    neurons: Path | None = None


def reuse(path, *, matches=lambda text: True, made="made", overwrite=False):
    def make():
        path.write_text(made)
        return made

    return reuse_or_make(
        path, what="it", load=Path.read_text, matches=matches, make=make, overwrite=overwrite
    )


def test_reuse_or_make_makes_once_and_reads_without_a_lock(tmp_path, monkeypatch):
    path = tmp_path / "thing"
    assert reuse(path, made="first") == "first"
    monkeypatch.setattr(fcntl, "flock", None)
    assert reuse(path, made="second") == "first"


def test_reuse_or_make_makes_what_is_out_of_date_again(tmp_path):
    path = tmp_path / "thing"
    path.write_text("old")
    assert reuse(path, matches=lambda text: text != "old", made="new") == "new"
    assert path.read_text() == "new"


def test_reuse_or_make_overwrites_without_reading(tmp_path):
    path = tmp_path / "thing"
    path.write_text("damaged")
    assert reuse(path, matches=lambda text: pytest.fail("read"), overwrite=True) == "made"


def test_reuse_or_make_passes_a_refusal_on_and_keeps_the_file(tmp_path):
    path = tmp_path / "thing"
    path.write_text("other settings")

    def refuse(text):
        raise MismatchError("of other settings")

    with pytest.raises(MismatchError, match="of other settings"):
        reuse(path, matches=refuse)
    assert path.read_text() == "other settings"


def test_reuse_or_make_reads_again_after_waiting(tmp_path, monkeypatch):
    path = tmp_path / "thing"

    @contextlib.contextmanager
    def waited(path, *, what):
        path.write_text("of another process")
        yield

    monkeypatch.setattr(reuse_module, "locked", waited)
    assert reuse(path) == "of another process"


def test_find_finished_returns_none_where_nothing_fits(tmp_path):
    path = tmp_path / "thing"

    def find(**options):
        return find_finished(path, load=Path.read_text, **{"matches": bool} | options)

    assert find() is None
    path.write_text("text")
    assert find() == "text"
    assert find(overwrite=True) is None
    assert find(matches=lambda text: False) is None


def test_require_same_settings_says_what_a_hash_stands_for(tmp_path):
    def require(found, asked, config):
        before = {"config": {"parallel": "embedded", "split": None, "neurons": "a.safetensors"}}
        require_same_settings(tmp_path, found, asked, provenance=before, config=config)

    setup = {"text": "1", "neurons": "2", "seed": 0}
    require(setup, setup, Config())
    with pytest.raises(MismatchError, match="settings: seed was 0, now 1. Pass --overwrite"):
        require(setup, setup | {"seed": 1}, Config())
    with pytest.raises(MismatchError, match="settings: parallel was embedded, now flores. Pass"):
        require(setup, setup | {"text": "3"}, Config(parallel="flores"))
    with pytest.raises(MismatchError, match="neurons was a.safetensors, now b.safetensors"):
        require(setup, setup | {"neurons": "3"}, Config(neurons=Path("b.safetensors")))
    with pytest.raises(MismatchError, match="settings: text was 1, now 3"):
        require(setup, setup | {"text": "3"}, Config())


def test_changed_options_skips_what_the_provenance_does_not_mention():
    before = {"parallel": "flores"}
    assert changed_options(before, Config(), ("split",)) == ""
    assert changed_options(None, Config(), ("parallel",)) == ""
    names = ("parallel", "split")
    assert changed_options(before, Config(), names) == "parallel was flores, now embedded"


def test_differences_names_each_entry_and_shortens_long_ones():
    assert (
        differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
        == "b was 2, now 3, c was None, now 4"
    )
    assert differences({"a": "x" * 200}, {"a": "y" * 200}) == "a differs"
    # A path under an ASCII locale, and the same path as JSON keeps it.
    assert differences({"a": "\udcc4\udca7"}, {"a": "ħ"}) == ""
