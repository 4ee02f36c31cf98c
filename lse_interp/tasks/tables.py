"""Scores as the paper prints them: tasks x models of one language, and means over languages.

Both take the rows of `EvaluationTable.to_frame`, of one language or of several.
Source: paper, Tables 2 to 26.
"""

from collections.abc import Sequence

import pandas as pd

from lse_interp.core.errors import LseError
from lse_interp.core.languages import lookup
from lse_interp.core.statistics import wilson_interval
from lse_interp.tasks.results import FRAME_COLUMNS, EvaluationTable

__all__ = [
    "AVERAGE",
    "average_scores",
    "averages_report",
    "language_report",
    "language_scores",
    "require_scores",
    "to_text",
]

AVERAGE = "Avg."
"""Row of the means over tasks."""

_UNIT_OF_SCORES = ("%", "BLEU")


def require_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame, if it is a table of scores.

    Raises:
        LseError: a column or all rows missing.
    """
    if missing := [name for name in FRAME_COLUMNS if name not in frame.columns]:
        raise LseError(
            f"A table of scores needs the columns {', '.join(FRAME_COLUMNS)}; "
            f"{', '.join(missing)} missing."
        )
    if frame.empty:
        raise LseError("The table of scores has no rows.")
    return frame


def language_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the headline scores of one language: one row per group, task and model.

    Columns: group, label, metric, unit, model, score, stderr, difference, low, high, p_value,
    n_documents. A
    row `Avg.` per group and model is the mean over its tasks in percent and BLEU; losses are not
    in it. Its change is the mean change, without bounds.

    Raises:
        LseError: a column missing, no rows, or more than one language.
    """
    frame = require_scores(frame)
    if (n := frame["language"].nunique()) > 1:
        raise LseError(f"This is the table of one language; got {n}. Select one, or average them.")
    columns = ["group", "label", "metric", "unit", "model", "score", "stderr", "difference"]
    rows = frame.loc[frame["headline"], [*columns, "low", "high", "p_value", "n_documents"]]
    return _with_averages(rows, name="label", column="model")


def average_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the headline scores over languages: one row per group, task and method.

    Columns: group, row, metric, unit, method, score, difference, stderr (of the difference, over
    languages), n_languages. Seeds are averaged first. A task that some languages lack is averaged
    over those that have it, as `n_languages` says. Form of Table 2.

    Raises:
        LseError: a column or all rows missing, or two models of one method and seed.
    """
    rows = require_scores(frame)
    rows = rows[rows["headline"]]
    keys = ["group", "row", "metric", "unit", "method"]
    doubled = rows.duplicated([*keys, "language", "seed"])
    if doubled.any():
        at = rows.loc[doubled, ["language", "method", "model", "row"]].iloc[0]
        raise LseError(
            f"{at['language']} has two models of method {at['method']} and one seed (the other is "
            f"{at['model']}), which cannot be averaged. Select one, e.g. with `--runs`."
        )
    seeds = rows.groupby([*keys, "language"], sort=False)[["score", "difference"]].mean()
    means = seeds.groupby(keys, sort=False).agg(
        score=("score", "mean"),
        difference=("difference", "mean"),
        stderr=("difference", "sem"),
        n_languages=("score", "size"),
    )
    return _with_averages(means.reset_index(), name="row", column="method")


def language_report(table: EvaluationTable) -> str:
    """Print the scores of one language; each model is compared with the base."""
    text = to_text(language_scores(table.to_frame()), name="label", column="model")
    return (
        f"Scores of {lookup(table.language).name} (mean ± standard error; Wilson's interval of 95 "
        f"% where questions are right or wrong; * p < 0.05 against the base):\n{text}"
    )


def averages_report(tables: Sequence[EvaluationTable]) -> str:
    """Print the mean scores over languages.

    Raises:
        LseError: See `average_scores`.
    """
    scores = average_scores(pd.concat([table.to_frame() for table in tables]))
    text = to_text(scores, name="row", column="method")
    return f"Means over {len(tables)} languages:\n{text}"


def to_text(rows: pd.DataFrame, *, name: str, column: str) -> str:
    """Print what the functions above return as a plain table, tasks x models."""
    rows = rows.assign(cell=[_cell(row, column) for _, row in rows.iterrows()])
    order = list(dict.fromkeys(zip(rows["group"], rows[name], strict=True)))
    grid = rows.pivot(index=["group", name], columns=column, values="cell").reindex(order)
    return grid[list(dict.fromkeys(rows[column]))].fillna("–").to_string()


def _with_averages(rows: pd.DataFrame, *, name: str, column: str) -> pd.DataFrame:
    parts = []
    for group in ("target", "general"):
        part = rows[rows["group"] == group]
        if part.empty:
            continue
        scored = part[part["unit"].isin(_UNIT_OF_SCORES)]
        means = scored.groupby(column, sort=False)[["score", "difference"]].mean().reset_index()
        parts += [part, means.assign(group=group, unit="%", metric="mean", **{name: AVERAGE})]
    return pd.concat(parts, ignore_index=True)


def _cell(row: pd.Series, column: str) -> str:
    text = f"{row['score']:.2f}"
    if column == "model" and pd.notna(row["stderr"]):
        if row["unit"] == "%":
            n = int(row["n_documents"])
            low, high = wilson_interval(round(row["score"] * n / 100), n)
            text += f" [{100 * low:.2f}, {100 * high:.2f}]"
        elif row["stderr"] > 0:  # Scores that are all alike say nothing about their error.
            text += f" ± {row['stderr']:.2f}"
    if column == "model" and pd.notna(row.get("p_value")) and row["p_value"] < 0.05:
        text += "*"
    return text
