"""Numbers on a page: written between its markers, means with their intervals."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from scipy import stats

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import ArtifactError

__all__ = ["interval", "put_between"]


def put_between(page: Path, parts: Mapping[str, str]) -> None:
    """Put each part of a page between its markers `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ArtifactError: no such page, or markers are missing.
    """
    if not page.is_file():
        raise ArtifactError(f"{page} does not exist; give the page to fill.")
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ArtifactError(f"{page} lacks the markers {start} and {end}; put them back.")
        text = f"{before}{start}\n{part}{end}{after}"
    write_atomic(page, lambda path: path.write_text(text, encoding="utf-8"))


def interval(values: pd.Series) -> str:
    """Write a mean with the half width of its 95 % t-interval.

    >>> interval(pd.Series([1.0, 2.0, 3.0]))
    '+2.00 ± 2.48'
    """
    half = stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return f"{values.mean():+.2f} ± {half:.2f}"
