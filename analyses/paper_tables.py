"""Tables of scores as the paper prints them: cells, averages, the best two marked, markdown.

A table is a frame of cells: group, label, method, score, stderr, recomputed, n, is_average. `n`
counts what an average is over; `recomputed` is what a printed number should be by the numbers it
comes from.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analyses.paper.checks import agrees
from analyses.scores import Scores
from lse_interp.plotting.picture import markdown_table
from lse_interp.plotting.scores import mean_scores
from lse_interp.plotting.style import method_label

__all__ = [
    "LEGEND",
    "METHODS",
    "column_label",
    "csv_of",
    "language_cells",
    "ranked",
    "scores_markdown",
    "summary_cells",
]

METHODS: tuple[str, ...] = (
    *("base", "full", "ffn", "lora", "random:size", "random:layer", "random:activity", "target"),
)
"""Columns, in the order of the paper."""

GROUPS = {"target": "Target language performance", "general": "General capabilities"}
LEGEND = "Bold is the best of a row, italic the second best."

_CELLS = ["group", "label", "method", "score", "stderr", "recomputed", "n", "is_average"]
_PLAIN = ["label", "method", "unit", "score", "stderr"]
_MISSING = "–"
_LOSS = "nats"


def column_label(method: str) -> str:
    """Return how a method heads its column.

    >>> column_label("base"), column_label("ffn")
    ('Base', 'FFN only')
    """
    return "Base" if method == "base" else method_label(method)


def language_cells(scores: Scores) -> pd.DataFrame:
    """Make the cells of one table per language: its scores, and their average in each group.

    A loss is no score and stays out of the average.

    Columns: language, unit, and those of a cell.
    """
    parts = []
    methods = list(dict.fromkeys(scores.frame["method"]))
    for language, frame in scores.frame.groupby("language", sort=False):
        for group, rows in _rows(scores.frame).items():
            own = frame[frame["group"] == group]
            average = _average(own[own["unit"] != _LOSS], by=["method"])
            if scores.printed is not None:
                shown = scores.printed.query("language == @language and group == @group")
                average = _beside(average, shown, by=["method"])
            for row in rows:
                found = own[own["row"] == row]
                lacking = pd.DataFrame({"label": row, "method": methods}).reindex(columns=_PLAIN)
                parts.append((lacking if found.empty else found[_PLAIN]).assign(is_average=False))
                parts[-1] = parts[-1].assign(group=group, language=language)
            parts.append(average.assign(label="Avg.", group=group, language=language))
    return _joined(parts, ["language", "unit", *_CELLS])


def summary_cells(scores: Scores, *, printed: pd.DataFrame | None = None) -> pd.DataFrame:
    """Average over languages, in the form of Table 2.

    Each group ends with the mean of its rows, and with the mean of the languages' own averages,
    which differs if a language lacks a row.

    Args:
        scores: of several languages.
        printed: `analyses.published.averages()`, to be shown instead, next to recomputed numbers.

    Columns: unit, and those of a cell.
    """
    parts = []
    for group in GROUPS:
        own = scores.frame[scores.frame["group"] == group]
        if own.empty:
            continue
        counted = own[own["unit"] != _LOSS]
        rows = _average(own, by=["row", "unit", "method"]).rename(columns={"row": "label"})
        shown = None if printed is None else printed[printed["group"] == group]
        if shown is not None:
            plain = shown[~shown["is_average"]].rename(columns={"row": "label"})
            rows = _beside(rows, plain, by=["label", "method"])
        per_language = _average(counted, by=["language", "method"])
        if scores.printed is not None:
            averages = scores.printed[scores.printed["group"] == group]
            per_language = _beside(per_language, averages, by=["language", "method"])
        parts.append(rows.assign(group=group, is_average=False))
        of_rows = _average(rows[rows["unit"] != _LOSS], by=["method"])
        of_languages = _average(per_language, by=["method"])
        if shown is not None:
            parts.append(_printed_average(shown).assign(group=group, label="Avg., as printed"))
        parts.append(of_rows.assign(group=group, label="Avg. of the rows"))
        if shown is not None or not _same(of_rows, of_languages):
            parts.append(of_languages.assign(group=group, label="Avg. of the languages"))
    return _joined(parts, ["unit", *_CELLS])


def ranked(cells: pd.DataFrame, *, by: Sequence[str] = ("group", "label")) -> pd.DataFrame:
    """Add `rank` in each row, at the printed precision: 1 is best; a loss is best when low."""
    value = cells["score"].round(2).where(cells["unit"] == _LOSS, -cells["score"].round(2))
    ranks = value.groupby([cells[name] for name in by]).rank(method="dense")
    return cells.assign(rank=ranks.astype("Int64"))


def scores_markdown(cells: pd.DataFrame, *, counted: str = "", first: str = "Metric") -> str:
    """Write cells as markdown, the best of a row bold, the second best italic.

    Args:
        cells: of one table, with their ranks.
        counted: what an average is over, e.g. `languages`: heads a column of numbers. Without it
            the number follows the label of an average.
        first: heads the first column.
    """
    methods = [method for method in METHODS if method in set(cells["method"])]
    head = [first, *([counted.capitalize()] if counted else []), *map(column_label, methods)]
    lines = []
    for group, part in cells.groupby("group", sort=False):
        if group:
            lines.append([f"**{GROUPS[str(group)]}**", *[""] * (len(head) - 1)])
        for label, row in part.groupby("label", sort=False):
            row = row.set_index("method").reindex(methods)
            lines.append(_line(str(label), row, counted=bool(counted)))
    return markdown_table(head, lines)


def csv_of(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells as a csv holds them: what they are about first, numbers rounded."""
    first = [name for name in ("language", "group", "label", "method") if name in cells]
    ordered = cells[[*first, *(name for name in cells if name not in first)]]
    return ordered.round({"score": 4, "stderr": 4, "recomputed": 4})


def _rows(frame: pd.DataFrame) -> dict[str, list[str]]:
    """List the rows of each group, over all languages, in their order."""
    groups = {group: frame.loc[frame["group"] == group, "row"] for group in GROUPS}
    return {group: list(dict.fromkeys(rows)) for group, rows in groups.items() if len(rows)}


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Stack cells, all with the same columns and types."""
    types = {"score": float, "stderr": float, "recomputed": float, "n": "Int64"}
    parts = [part.reindex(columns=columns).astype(types) for part in parts]
    return pd.concat(parts, ignore_index=True).fillna({"unit": ""})


def _average(frame: pd.DataFrame, *, by: list[str]) -> pd.DataFrame:
    return mean_scores(frame, by=by).assign(recomputed=np.nan, is_average=True)


def _beside(own: pd.DataFrame, printed: pd.DataFrame, *, by: list[str]) -> pd.DataFrame:
    """Show the printed score, and the own one as recomputed."""
    shown = printed.set_index(by)["score"].rename("printed")
    found = own.join(shown, on=by)
    return found.assign(recomputed=found["score"], score=found["printed"]).drop(columns="printed")


def _printed_average(shown: pd.DataFrame) -> pd.DataFrame:
    return shown.loc[shown["is_average"], ["method", "score", "is_average"]]


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    scores = [frame.set_index("method")["score"] for frame in (one, other)]
    return bool(np.allclose(*(values.sort_index() for values in scores)))


def _line(label: str, row: pd.DataFrame, *, counted: bool) -> list[str]:
    """Write one row; counts that differ between methods go into the cells."""
    numbers = row["n"].dropna().astype(int).unique()
    uneven = len(numbers) > 1
    cells = [_cell(cell, with_count=uneven) for _, cell in row.iterrows()]
    number = str(numbers[0]) if len(numbers) == 1 else ""
    if counted:
        return [label, number, *cells]
    is_average = bool(row["is_average"].eq(True).any())
    return [f"{label} of {number}" if is_average and number else label, *cells]


def _cell(cell: pd.Series, *, with_count: bool) -> str:
    if pd.isna(cell["score"]):
        return _MISSING
    text = f"{cell['score']:.2f}"
    text = {1: f"**{text}**", 2: f"*{text}*"}.get(cell["rank"], text)
    if cell["stderr"] > 0:
        text += f" ± {cell['stderr']:.2f}"
    recomputed = pd.Series([cell["recomputed"]], dtype=float)
    if recomputed.notna().all() and not agrees(pd.Series([cell["score"]]), recomputed).all():
        text += f" ({cell['recomputed']:.2f})"
    return f"{text} [{int(cell['n'])}]" if with_count else text
