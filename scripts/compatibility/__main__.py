"""Write docs/compatibility.md: which models and which files the package reads, as measured.

python -m scripts.compatibility

Every other module of this folder has `table() -> str`, a section of the page in Markdown.
"""

import importlib
import importlib.metadata
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

_HEAD = """# Compatibility

This page is written by `python -m scripts.compatibility`, which measures everything in it. Do not
edit it by hand: a test compares it with what the command writes.

Measured with {versions}.
"""
_LIBRARIES = ("torch", "transformers", "transformer-lens", "nnsight", "peft", "tokenizers")


def head() -> str:
    """Return the beginning of the page: what it is, and with which libraries it was measured."""
    found = {name: importlib.metadata.version(name).split("+")[0] for name in _LIBRARIES}
    return _HEAD.format(versions=", ".join(f"{name} {found[name]}" for name in found))


def page() -> str:
    """Return the page."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    tables = (importlib.import_module(f"scripts.compatibility.{name}").table() for name in modules)
    return "\n".join([head(), *tables])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
