"""Numbers on a page: written between its markers, means with their intervals."""

from pathlib import Path

import pandas as pd
from scipy import stats

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import LseError

__all__ = ["interval", "put_between"]


def put_between(page: Path, marker: str, text: str) -> None:
    """Replace the text between the two markers of a page.

    Raises:
        LseError: the page does not have the marker twice.
    """
    parts = page.read_text(encoding="utf-8").split(marker)
    if len(parts) != 3:
        raise LseError(
            f"{page} should hold {marker} twice, around the generated text; found it "
            f"{len(parts) - 1} times."
        )
    whole = f"{parts[0]}{marker}\n{text}{marker}{parts[2]}"
    write_atomic(page, lambda path: path.write_text(whole, encoding="utf-8"))


def interval(values: pd.Series) -> str:
    """Write a mean with the half width of its 95 % t-interval.

    >>> interval(pd.Series([1.0, 2.0, 3.0]))
    '+2.00 ± 2.48'
    """
    half = stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return f"{values.mean():+.2f} ± {half:.2f}"
