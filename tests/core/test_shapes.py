"""The axis glossary holds every axis that a shape in the package names, and no other."""

import ast
from pathlib import Path

import lse_interp
from lse_interp.core.shapes import AXES

MODULES = sorted(Path(lse_interp.__file__).parent.rglob("*.py"))
DTYPES = {"Bool", "Float", "Float32", "Float64", "Int", "Int32", "Int64", "Shaped", "UInt8"}


def axes_of(path):
    """Axes that the jaxtyping shapes of a file name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
            continue
        if getattr(node.value, "id", None) in DTYPES:
            shape = ast.literal_eval(node.slice.elts[1])
            found |= {axis.lstrip("_") for axis in shape.split() if not axis.isdigit()}
    return {axis for axis in found if axis and not axis.startswith(("*", "."))}


def test_every_axis_is_in_the_glossary_and_used():
    used = {axis: path for path in MODULES for axis in axes_of(path)}
    assert {axis: str(path) for axis, path in used.items() if axis not in AXES} == {}
    assert set(AXES) - set(used) == set()
