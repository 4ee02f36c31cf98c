"""Draw task scores: what training gains in every language, and every method on every task.

The input has the columns of `EvaluationTable.to_frame`, of one language or several stacked.

Source: paper, Figure 3 and Table 2; the intervals are additions.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lse_interp.core.errors import LseError
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import (
    dot,
    dots_in_rows,
    grid,
    in_order,
    interval,
    language_rows,
    method_dots,
    spread,
)
from lse_interp.plotting.style import (
    PAGE_INCHES,
    drawing,
    method_color,
    method_order,
)

__all__ = [
    "TASKS",
    "improvements_frame",
    "mean_over_seeds",
    "mean_scores",
    "plot_improvements_panels",
    "plot_scores_panels",
    "scores_frame",
]

_GROUPS = {"target": "Target-language tasks", "general": "General capabilities"}
TASKS = {"target": "Target-language tasks", "all": "All tasks"}
"""Kinds of tasks that improvements are averaged over, and their titles."""
_MARKERS = ("o", "D", "s", "^")
_BASE = "base"
_ROW_INCHES = 0.24


def improvements_frame(scores: pd.DataFrame) -> pd.DataFrame:
    """Average the change against the base model over tasks, per language and method.

    Columns: language, method, tasks (`target`: target-language tasks; `all`: those and general
    capabilities), n_tasks, n_seeds, improvement (points of BLEU or percent), low, high. Bounds of
    tasks are averaged over seeds and combined as if tasks were independent; NaN if a task has none.
    Losses in nats are left out.

    Args:
        scores: columns of `EvaluationTable.to_frame`; the rows of `headline` are averaged.

    Raises:
        LseError: no rows to average.
    """
    points = _points(scores)
    changes = points[points["method"] != _BASE]
    if changes.empty:
        raise LseError(
            "The table of scores has no model besides the base model to compare with it."
        )
    keys = ["language", "method", "group", "row"]
    tasks = changes.groupby(keys, as_index=False).agg(
        n_seeds=("seed", "nunique"),
        difference=("difference", "mean"),
        low=("low", _mean),
        high=("high", _mean),
    )
    parts = [tasks[tasks["group"] == "target"].assign(tasks="target")]
    if (tasks["group"] != "target").any():
        parts.append(tasks.assign(tasks="all"))
    frame = pd.DataFrame(
        [
            {"language": language, "method": method, "tasks": which, **_joined(rows)}
            for part in parts
            for (language, method, which), rows in part.groupby(["language", "method", "tasks"])
        ]
    )
    languages, methods = family_order(frame["language"].unique()), _methods(frame)
    return in_order(frame, tasks=TASKS, language=languages, method=methods)


def scores_frame(scores: pd.DataFrame) -> pd.DataFrame:
    """Average scores over languages and seeds: the form of Table 2.

    Columns: group, row, method (`base` first), unit, n_languages, n_seeds, score, stderr. `stderr`
    is the standard error of the mean over these languages due to the choice of questions. Errors
    are taken as independent between languages and shared by seeds; NaN if a score has none. Losses
    in nats are left out.

    Args:
        scores: columns of `EvaluationTable.to_frame`; only rows of `headline` are kept.

    Raises:
        LseError: no such rows.
    """
    points = _points(scores)
    keys = ["group", "row", "method", "unit"]
    single = mean_over_seeds(points, by=[*keys, "language"])
    frame = mean_scores(single, by=keys).rename(columns={"n": "n_languages"})
    n_seeds = single.groupby(keys, sort=False)["n_seeds"].max()
    frame = frame.join(n_seeds, on=keys)
    frame = frame[[*keys, "n_languages", "n_seeds", "score", "stderr"]]
    rows = dict.fromkeys(frame["row"])
    return in_order(frame, group=_GROUPS, row=rows, method=_methods(frame))


def mean_over_seeds(scores: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """Average each score over seeds: `by`, score, stderr, n_seeds.

    The standard error is averaged too, which makes it too wide rather than too narrow: seeds are
    asked the same questions.
    """
    return scores.groupby(list(by), sort=False, as_index=False).agg(
        score=("score", "mean"), stderr=("stderr", _mean), n_seeds=("seed", "nunique")
    )


def mean_scores(scores: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """Average scores, taking their errors as independent: `by`, score, stderr, n.

    `stderr` is NaN if a score has none.
    """
    return scores.groupby(list(by), sort=False, as_index=False).agg(
        score=("score", "mean"), stderr=("stderr", _stderr_of_mean), n=("score", "size")
    )


@drawing("language")
def plot_improvements_panels(frame: pd.DataFrame, *, others: bool = False) -> list[Axes]:
    """Draw the average improvement of target fine-tuning, one row per language.

    The first panel is target-language tasks; if there are general ones, a second is all tasks.
    Lines from the dots of single models are 95 % intervals, if there are any. Several models are
    drawn above each other, each with its own marker. The lowest row is the mean over languages.

    Args:
        frame: what `improvements_frame` returns, or several stacked with a column `model`.
        others: also draw every other method, as a small dot in its colour.

    Returns:
        The Axes of one new figure.

    Raises:
        LseError: no target fine-tuning was measured.

    Source: paper, Figure 3.
    """
    frame = frame if "model" in frame else frame.assign(model="")
    kinds = [kind for kind in TASKS if kind in set(frame["tasks"])]
    n_rows = frame["language"].nunique() + 1
    size = (1.0 + 2.5 * len(kinds), 1.15 + _ROW_INCHES * n_rows)
    figure, axes = grid(len(kinds), n_columns=len(kinds), size=size, sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        numbers = frame.loc[frame["tasks"] == kind, "n_tasks"].agg(["min", "max"]).unique()
        title = f"{TASKS[kind]} ({' or '.join(map(str, numbers))})"
        _draw_improvements(ax, frame[frame["tasks"] == kind], others=others)
        ax.set_title(title)
    handles = [
        Line2D([], [], color="0.3", label=model, **dot(marker, size=4.4))
        for marker, model in zip(_MARKERS, dict.fromkeys(frame["model"]), strict=False)
        if model
    ]
    if others:
        handles += method_dots(set(frame["method"]) - {"target"}, size=3.0)
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return axes


@drawing()
def plot_scores_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw one row per task: a dot per method, and a line through the row at the base model.

    The first panel is target-language tasks; if there are any, a second is general capabilities.
    Light lines are one standard error to each side, if it is known.

    Args:
        frame: what `scores_frame` returns.

    Returns:
        The Axes of one new figure.

    Source: paper, Table 2.
    """
    groups = [group for group in _GROUPS if group in set(frame["group"])]
    n_rows = frame.groupby("group")["row"].nunique().max()
    size = (PAGE_INCHES * len(groups) / 2, 1.0 + 0.42 * n_rows)
    figure, axes = grid(len(groups), n_columns=len(groups), size=size)
    for ax, group in zip(axes, groups, strict=True):
        _draw_scores(ax, frame[frame["group"] == group])
        ax.set_title(_GROUPS[group])
    base = Line2D([], [], color="0.15", linestyle="none", marker="|", markersize=8, label="Base")
    handles = [base, *method_dots(set(frame["method"]) - {_BASE}, size=3.4)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 7))
    return axes


def _points(scores: pd.DataFrame) -> pd.DataFrame:
    needed = {"language", "method", "seed", "row", "group", "unit", "headline", "score", "stderr"}
    needed |= {"difference", "low", "high"}
    if missing := sorted(needed - set(scores.columns)):
        raise LseError(f"A table of scores lacks the columns {', '.join(missing)}.")
    points = scores[scores["headline"] & (scores["unit"] != "nats")]
    if points.empty:
        raise LseError("The table of scores has no headline score in points or percent.")
    method_order(set(points["method"]) - {_BASE})
    return points


def _mean(values: pd.Series) -> float:
    return values.mean(skipna=False)


def _stderr_of_mean(values: pd.Series) -> float:
    return float(np.sqrt((values**2).sum(skipna=False)) / len(values))


def _joined(rows: pd.DataFrame) -> dict[str, int | float]:
    """Average over tasks; the squares of the distances to the bounds add up."""
    center = rows["difference"].mean()
    below, above = rows["difference"] - rows["low"], rows["high"] - rows["difference"]
    return {
        "n_tasks": len(rows),
        "n_seeds": int(rows["n_seeds"].max()),
        "improvement": center,
        "low": center - _stderr_of_mean(below),
        "high": center + _stderr_of_mean(above),
    }


def _methods(frame: pd.DataFrame) -> list[str]:
    return [_BASE, *method_order(set(frame["method"]) - {_BASE})]


def _draw_improvements(ax: Axes, rows: pd.DataFrame, *, others: bool) -> None:
    if not (rows["method"] == "target").any():
        raise LseError("No target fine-tuning was measured.")
    models = list(dict.fromkeys(rows["model"]))
    codes = family_order(rows["language"].unique())
    shifts = dict(zip(models, spread(len(models), width=0.18), strict=True))
    for marker, model in zip(_MARKERS, models, strict=False):
        own, shift = rows[rows["model"] == model], shifts[model]
        look = {"value": "improvement", "codes": codes, "shift": shift, "zorder": 4}
        dots_in_rows(ax, own[own["method"] == "target"], **look, **dot(marker, size=4.4))
        for row in own[own["method"] != "target"].itertuples() if others else ():
            at, color = codes.index(row.language) + shift, method_color(row.method)
            ax.plot(row.improvement, at, color=color, **dot(size=2.2))
    language_rows(ax, codes)
    ax.set_xlabel("Improvement over base (points)")


def _draw_scores(ax: Axes, rows: pd.DataFrame) -> None:
    tasks = list(dict.fromkeys(rows["row"]))
    methods = method_order(set(rows["method"]) - {_BASE})
    shifts = dict(zip(methods, np.linspace(-0.3, 0.3, len(methods)), strict=True))
    for row in rows.itertuples():
        at = tasks.index(row.row)
        if row.method == _BASE:
            ax.plot([row.score] * 2, [at - 0.42, at + 0.42], color="0.15", linewidth=1.1, zorder=2)
            continue
        color, y = method_color(row.method), at + shifts[row.method]
        interval(ax, y, [row.score - row.stderr, row.score + row.stderr], color=color)
        ax.plot(row.score, y, color=color, zorder=4, **dot(size=3.4))
    for at in range(1, len(tasks)):
        ax.axhline(at - 0.5, color="0.92", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(tasks)), tasks)
    ax.set_ylim(len(tasks) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.set_xlim(left=0)
    ax.set_xlabel("Score (BLEU or accuracy in percent)")
