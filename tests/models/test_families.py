"""Every family over every backend: values, edits, padding, training and export, as measured."""

import pytest

from scripts.compatibility.__main__ import PAGE, page
from scripts.compatibility._tiny import FAMILIES
from scripts.compatibility.families import measure
from tests.tiny_models import FAMILIES as QUICK

# peft reads a property that transformers 5 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES],
)
def test_every_site_is_its_equation(family):
    row = measure(family)
    assert set(row.values()) > {"yes"}
    assert "torch" in row["mlp.hook_act"] or row["mlp.hook_act"] == "all"


@pytest.mark.slow
def test_the_page_is_what_was_measured():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m scripts.compatibility"
