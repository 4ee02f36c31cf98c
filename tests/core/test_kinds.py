"""Kinds: found by file and by entry point, imported when asked for."""

import importlib.metadata
import sys

import pytest

from lse_interp.core.errors import LseError

KINDS = (
    "from lse_interp.core.kinds import Kinds\nCOLOURS = Kinds('paints', group='g', what='colour')\n"
)


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """A package `paints` with one file per colour, and an entry point of another package."""
    folder = tmp_path / "paints"
    folder.mkdir()
    (folder / "__init__.py").write_text(KINDS)
    (folder / "warm.py").write_text(
        'import paints\npaints.COLOURS.register("red")(1)\npaints.COLOURS.register("pink")(2)\n'
    )
    (folder / "_helper.py").write_text('register("none")')
    (tmp_path / "elsewhere.py").write_text("import paints\npaints.COLOURS.register('blue')(3)\n")
    (tmp_path / "empty.py").write_text("")
    points = [
        importlib.metadata.EntryPoint("blue", "elsewhere:BLUE", "g"),
        importlib.metadata.EntryPoint("grey", "empty", "g"),
        importlib.metadata.EntryPoint("lost", "no_such_module_anywhere", "g"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points if group == "g" else []
    )
    monkeypatch.syspath_prepend(tmp_path)
    import paints

    yield paints.COLOURS
    for name in ("paints", "paints.warm", "elsewhere", "empty"):
        sys.modules.pop(name, None)


def test_names_imports_no_kind(colours):
    assert colours.names() == ("red", "pink", "blue", "grey", "lost")
    assert not {"paints.warm", "elsewhere"} & set(sys.modules)


def test_a_kind_is_imported_when_asked_for(colours):
    assert [colours["pink"], colours["red"], colours["blue"]] == [2, 1, 3]
    assert "blue" in colours
    assert "green" not in colours


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rde", "no colour 'rde'. Did you mean red"),
        ("grey", "empty was named for the colour 'grey' and has none"),
        ("lost", "'lost' is in no_such_module_anywhere, which cannot be imported"),
    ],
)
def test_a_wrong_name_is_told(colours, name, message):
    with pytest.raises(LseError, match=message):
        colours[name]


def test_choice_holds_every_name(colours):
    assert colours.choice.__args__ == colours.names()
