"""Draw what more training text brings: the fall in validation loss over the tokens given.

With task scores, it draws their average improvement instead.

Source: paper, Figure 5, which shows task scores; the loss is an addition.
"""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lse_interp.core.errors import LseError, require_one_of
from lse_interp.core.languages import family_order
from lse_interp.plotting.loss_curves import require_one_model, tokens_axis
from lse_interp.plotting.panels import (
    LEGEND,
    LEGEND_INCHES,
    PANEL_HEIGHT,
    grid,
    interval,
    language_lines,
)
from lse_interp.plotting.scores import TASKS, improvements_frame
from lse_interp.plotting.style import (
    COLUMN_INCHES,
    drawing,
    language_label,
    language_line,
    sized,
)
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = [
    "data_size_frame",
    "data_size_scores_frame",
    "plot_data_size",
    "plot_data_size_panels",
]

_LOSS = {
    "improvement": "Fall in validation loss (nats/token)",
    "percent": "Fall in validation loss (%)",
}
_LABELS = {**_LOSS, "points": "Improvement over base (points)"}


def data_size_frame(runs: Mapping[str, FinetuneRun]) -> pd.DataFrame:
    """List what runs on several amounts of text gained.

    Columns: run, method, language, seed, tokens (the text given; the weights kept may be from
    before its end), base, loss (nats per token, of the weights kept), improvement = base - loss,
    percent = 100 improvement / base.

    Args:
        runs: name -> run with a token budget, of one base model.

    Raises:
        LseError: no runs; or one without a token budget.
        MismatchError: runs of several base models.
    """
    require_one_model(runs)
    rows = []
    for name, run in runs.items():
        rows.append(
            {
                "run": name,
                "method": run.method,
                "language": run.language,
                "seed": int(run.settings["seed"]),
                "tokens": _budget(name, run),
                "base": float(run.results["base_validation_loss"][run.language]),
                "loss": float(run.results["validation_loss"][run.language]),
            }
        )
    frame = pd.DataFrame(rows)
    gain = frame["base"] - frame["loss"]
    return frame.assign(improvement=gain, percent=100 * gain / frame["base"])


def data_size_scores_frame(scores: pd.DataFrame) -> pd.DataFrame:
    """Average the change of task scores per language and amount of text.

    Columns: tokens, language, method, tasks (`target` or `all`), n_tasks, n_seeds, points, low,
    high; see `improvements_frame`.

    Args:
        scores: columns of `EvaluationTable.to_frame`, and `tokens` (the text given).

    Raises:
        LseError: no column `tokens`, or no model besides the base model.
    """
    if "tokens" not in scores:
        raise LseError("The table of scores lacks the column tokens: the text each run was given.")
    trained = scores[scores["method"] != "base"]
    if trained.empty:
        raise LseError("The table of scores has no model besides the base model.")
    parts = {int(tokens): improvements_frame(rows) for tokens, rows in trained.groupby("tokens")}
    frame = pd.concat(parts, names=["tokens", None]).reset_index("tokens")
    return frame.rename(columns={"improvement": "points"}).reset_index(drop=True)


@drawing("language")
def plot_data_size(
    frame: pd.DataFrame, *, value: str = "improvement", ax: Axes | None = None
) -> Axes:
    """Draw what more text brings: one line per language over the tokens of text.

    A line is the mean over seeds; every run is a dot.

    Args:
        frame: what `data_size_frame` or `data_size_scores_frame` returns, of one method.
        value: `improvement` (nats per token) or `percent`; of scores, `points`.
        ax: where to draw; None makes a new figure with a legend.

    Raises:
        LseError: another `value`; or several methods.

    Source: paper, Figure 5.
    """
    require_one_of("value", value, _LABELS)
    if (n_methods := frame["method"].nunique()) != 1:
        raise LseError(f"One Axes shows one method; the frame holds {n_methods}. Select one.")
    codes = family_order(frame["language"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=sized(COLUMN_INCHES + LEGEND_INCHES, PANEL_HEIGHT))
        _legend(ax.figure.figure, codes)
    for code in codes:
        rows = frame[frame["language"] == code]
        mean = rows.groupby("tokens")[value].mean()
        ax.plot(mean.index, mean, label=language_label(code), **language_line(code))
        color = language_line(code)["color"]
        ax.scatter(rows["tokens"], rows[value], s=10, color=color, linewidth=0, zorder=3)
    ax.axhline(0, color="0.3", linewidth=0.8, zorder=1)
    ax.set_ylabel(_LABELS[value])
    tokens_axis(ax, label="Tokens of training text")
    return ax


@drawing("language")
def plot_data_size_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw the improvement in two panels.

    In loss: nats per token, and percent of the base loss. In task scores: target-language tasks
    and, if there are general ones, all tasks; light lines are the bounds, if there are any.

    Args:
        frame: what `data_size_frame` or `data_size_scores_frame` returns, of one method.

    Returns:
        The Axes of one new figure.

    Raises:
        LseError: several methods.

    Source: paper, Figure 5; the bounds are an addition.
    """
    of_scores = "points" in frame
    panels = [kind for kind in TASKS if kind in set(frame["tasks"])] if of_scores else list(_LOSS)
    size = (2.7 * len(panels) + LEGEND_INCHES, PANEL_HEIGHT)
    figure, axes = grid(len(panels), n_columns=len(panels), size=size, sharex=True)
    for ax, panel in zip(axes, panels, strict=True):
        if not of_scores:
            plot_data_size(frame, value=panel, ax=ax)
            continue
        rows = frame[frame["tasks"] == panel]
        plot_data_size(rows, value="points", ax=ax).set_title(TASKS[panel])
        for row in rows.itertuples():
            color = language_line(row.language)["color"]
            interval(ax, float(row.tokens), [row.low, row.high], color=color, upright=True)
    _legend(figure, family_order(frame["language"].unique()))
    return axes


def _legend(figure: Figure, codes: Iterable[str]) -> None:
    handles = language_lines(codes, marker="o", markersize=3)
    figure.legend(handles=handles, loc="outside right upper", **LEGEND)


def _budget(name: str, run: FinetuneRun) -> int:
    if run.settings.get("tokens") is None:
        raise LseError(
            f"Run {name} has no token budget. Give runs of "
            "`python -m lse_interp.finetune --n-tokens` with several values."
        )
    return int(run.settings["tokens"])
