"""What is written between markers, and the numbers that are."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyses.markdown import interval, put_between
from analyses.method_tests import ahead_table, speed_table
from lse_interp.core.errors import ArtifactError

PAGE = "before\n<!-- here -->\n{}<!-- /here -->\nafter\n"


def test_put_between_replaces_what_is_there_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format("old\n"), encoding="utf-8")
    for text in ("new\n", "newer\n"):
        put_between(page, {"here": text})
        assert page.read_text(encoding="utf-8") == PAGE.format(text)


def test_put_between_refuses_a_page_without_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before <!-- here --> after", encoding="utf-8")
    with pytest.raises(ArtifactError, match="lacks the markers <!-- here --> and <!-- /here -->"):
        put_between(page, {"here": "new"})
    assert page.read_text(encoding="utf-8") == "before <!-- here --> after"


def test_interval_is_that_of_a_t_test():
    values = np.array([3.0, -1.0, 2.5, 0.5])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(pd.Series(values)) == f"{values.mean():+.2f} ± {(high - low) / 2:.2f}"


def results():
    """Losses of two methods in eight languages; target is lower in seven of them."""
    rows = []
    for at in range(8):
        for method, loss in (("target", 10.0), ("full", 9.5 if at == 0 else 11.0 + at)):
            for measured in (f"l{at}", "eng"):
                rows.append((f"l{at}", method, 0, measured, "base", loss))
    columns = ["language", "method", "seed", "measured", "against", "loss"]
    return pd.DataFrame(rows, columns=columns)


def test_ahead_table_counts_languages_and_tests_them():
    differences = [0.5, *(-1.0 - at for at in range(1, 8))]
    p = stats.wilcoxon(differences).pvalue
    last = ahead_table(results()).splitlines()[-1]
    assert last == f"| Full | 7 of 8, p = {p:.2g} | 7 of 8, p = {p:.2g} |"


def test_speed_table_reads_the_curves():
    curves = []
    for language in ("mlt", "isl", "slk"):
        for method, losses in (("target", [8, 4, 2]), ("full", [8, 6, 2])):
            for at, loss in enumerate(losses):
                row = {"language": language, "method": method, "seed": 0, "measured": language}
                curves.append({**row, "step": 10 * at, "tokens": 8000 * at, "loss": loss})
    frame = pd.DataFrame(curves).assign(split="validation")
    train = frame.assign(split="train", loss=99.0)
    lines = speed_table(pd.concat([frame, train])).splitlines()
    # After 10,000 tokens: a quarter of the way from the second value to the third.
    assert lines[-2].startswith("| Target | 3.50 |")
    assert lines[-1].startswith("| Full | 5.00 | 3 of 3, p = ")
    assert lines[-2].endswith("| 10 |")
    assert lines[-1].endswith("| 20 |")
