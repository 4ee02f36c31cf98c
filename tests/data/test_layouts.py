"""Each row of the table of files in docs/compatibility.md is made and read."""

import pytest

from scripts.compatibility.__main__ import PAGE
from scripts.compatibility.layouts import LAYOUTS, measure, table


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_files_are_read_as_they_are_distributed(tmp_path, layout):
    assert "yes" in measure(layout, tmp_path)


def test_the_page_holds_the_table():
    assert table() in PAGE.read_text(encoding="utf-8"), "python -m scripts.compatibility"
