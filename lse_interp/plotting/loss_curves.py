"""Draw how fine-tuning goes: the validation loss of every method over the tokens seen.

Source: paper, Figure 4 and appendix B. The loss in other languages (forgetting), the
single seeds and the point of the weights kept are additions.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import LEGEND, LEGEND_INCHES, PANEL_HEIGHT, dot, grid
from lse_interp.plotting.style import (
    COLUMN_INCHES,
    PAGE_INCHES,
    drawing,
    language_label,
    method_color,
    method_label,
    method_line,
    method_order,
    points,
    sized,
)
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = [
    "dynamics_frame",
    "plot_dynamics",
    "plot_dynamics_panels",
    "plot_small_dynamics",
    "require_one_model",
    "tokens_axis",
]

_BASE_TOLERANCE = 0.01


def dynamics_frame(runs: Mapping[str, FinetuneRun]) -> pd.DataFrame:
    """List the loss curves of several runs.

    Columns: run, and those of `FinetuneRun.to_frame`.

    Args:
        runs: name -> run, of one base model.

    Raises:
        LseError: no runs.
        MismatchError: runs of several base models.
    """
    require_one_model(runs)
    frames = {name: run.to_frame() for name, run in runs.items()}
    return pd.concat(frames, names=["run"]).reset_index("run").reset_index(drop=True)


@drawing()
def plot_dynamics(
    frame: pd.DataFrame, *, measured: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the validation loss of every method over the tokens seen.

    A line is the mean over seeds, with the single seeds thin behind it; a dot marks where the
    mean in the trained language is lowest; the dotted line is the base model.

    Args:
        frame: what `dynamics_frame` returns, of one trained language.
        measured: the language of the validation text; by default the one trained.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: several trained languages; a language that was not measured; two runs of one
            method and seed; or base losses that differ, so that the curves cannot be compared.

    Source: paper, Figure 4.
    """
    language = _one_language(frame)
    if ax is None:
        _, ax = plt.subplots(figsize=sized(COLUMN_INCHES + LEGEND_INCHES, PANEL_HEIGHT))
        ax.figure.legend(handles=_legend(frame), loc="outside right upper", **LEGEND)
    _draw_dynamics(ax, frame, measured=measured or language)
    return ax


@drawing()
def plot_dynamics_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw one panel for the trained language, and one for every other language measured.

    A nat is equally tall in all panels, so that gain and forgetting can be compared.

    Args:
        frame: what `dynamics_frame` returns, of one trained language.

    Returns:
        The Axes of one new figure, the trained language first.

    Raises:
        LseError: as in `plot_dynamics`.
    """
    language = _one_language(frame)
    others = family_order(set(_validation(frame)["measured"]) - {language})
    width = LEGEND_INCHES + 2.7 * (1 + len(others))
    n = 1 + len(others)
    figure, axes = grid(n, n_columns=n, size=(width, PANEL_HEIGHT), sharex=True)
    for ax, measured in zip(axes, [language, *others], strict=True):
        _draw_dynamics(ax, frame, measured=measured)
        ax.set_title(language_label(measured) + (" (trained)" if measured == language else ""))
    for ax in axes[1:]:
        ax.set_ylabel("")
    _equal_spans(axes)
    figure.legend(handles=_legend(frame), loc="outside right upper", **LEGEND)
    return axes


@drawing("language")
def plot_small_dynamics(frame: pd.DataFrame) -> list[Axes]:
    """Draw one small panel per trained language, each on its own scale.

    Args:
        frame: what `dynamics_frame` returns.

    Returns:
        The Axes of one new figure, in family order.

    Raises:
        LseError: as in `plot_dynamics`.

    Source: paper, appendix B.
    """
    languages = family_order(frame["language"].unique())
    n_columns = min(len(languages), 4)
    n_rows = -(-len(languages) // n_columns)
    size = (max(PAGE_INCHES * n_columns / 4, COLUMN_INCHES), 1.55 * n_rows + 0.5)
    figure, panels = grid(len(languages), n_columns=n_columns, size=size)
    for ax, language in zip(panels, languages, strict=True):
        _draw_dynamics(ax, frame[frame["language"] == language], measured=language)
        ax.set(title=language_label(language), xlabel="", ylabel="")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
    figure.supylabel(_loss_label(None), fontsize=points(8))
    figure.supxlabel("Tokens", fontsize=points(8))
    handles = _legend(frame)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
    return panels


def require_one_model(runs: Mapping[str, FinetuneRun]) -> None:
    """Refuse no runs, and runs of several base models.

    Raises:
        LseError: no runs.
        MismatchError: runs of several base models.
    """
    if not runs:
        raise LseError("No fine-tuning runs to draw; `python -m lse_interp.finetune` makes one.")
    (first_name, first), *others = runs.items()
    for name, run in others:
        try:
            first.model.require_same(run.model, what=f"Run {name}")
        except MismatchError as error:
            error.add_note(f"The first run is {first_name}. Draw one base model at a time.")
            raise


def tokens_axis(ax: Axes, *, label: str) -> None:
    """Count tokens along the x axis, from 0."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(left=0)


def _validation(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] == "validation"]


def _one_language(frame: pd.DataFrame) -> str:
    languages = list(frame["language"].unique())
    if len(languages) != 1:
        raise LseError(
            f"One Axes shows one trained language; the frame holds {len(languages)} "
            f"({', '.join(languages)}). Select one, or use `plot_small_dynamics`."
        )
    return languages[0]


def _draw_dynamics(ax: Axes, frame: pd.DataFrame, *, measured: str) -> None:
    language, curves = _one_language(frame), _validation(frame)
    known = set(curves["measured"])
    if measured not in known:
        raise LseError(
            f"The validation loss in {measured!r} was not measured in training {language}; "
            f"there is {', '.join(sorted(known)) or 'none'}."
        )
    shown = curves[curves["measured"] == measured]
    _require_one_run_per_seed(shown)
    _draw_base(ax, shown)
    # The target lies on top of the other methods.
    for zorder, method in enumerate(reversed(method_order(shown["method"])), start=2):
        trained = curves[(curves["measured"] == language) & (curves["method"] == method)]
        _draw_method(ax, shown[shown["method"] == method], trained=trained, zorder=zorder)
    ax.set_ylabel(_loss_label(measured if measured != language else None))
    tokens_axis(ax, label="Tokens")


def _require_one_run_per_seed(curves: pd.DataFrame) -> None:
    runs = curves[["run", "method", "seed"]].drop_duplicates()
    twice = runs[runs.duplicated(["method", "seed"], keep=False)]
    if not twice.empty:
        row = twice.iloc[0]
        names = twice.loc[(twice[["method", "seed"]] == row[["method", "seed"]]).all(axis=1), "run"]
        raise LseError(
            f"Several runs are of method {row['method']} and seed {row['seed']}: "
            f"{', '.join(names)}. Their mean would mix settings; select one of them."
        )


def _draw_method(ax: Axes, rows: pd.DataFrame, *, trained: pd.DataFrame, zorder: int) -> None:
    """Draw the mean, the seeds behind it, and a dot where the mean of `trained` is lowest."""
    method = rows["method"].iloc[0]
    if rows["run"].nunique() > 1:
        for _, one in rows.groupby("run"):
            thin: dict[str, Any] = {"color": method_color(method), "linewidth": 0.6, "alpha": 0.45}
            ax.plot(*_xy(one), zorder=zorder, **thin)
    mean, own = _mean_curve(rows), _mean_curve(trained)
    ax.plot(*_xy(mean), label=method_label(method), zorder=zorder, **method_line(method))
    look = dot(size=4.0) | {"markeredgecolor": "white", "markeredgewidth": 0.6}
    look["color"] = method_color(method)
    lowest = mean[mean["step"] == own.loc[own["loss"].idxmin(), "step"]]
    ax.plot(*_xy(lowest), zorder=zorder + 0.5, **look)


def _xy(curve: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    return curve["tokens"], curve["loss"]


def _mean_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over runs at the steps that all of them reached, so that the mean never jumps."""
    n_runs = rows["run"].nunique()
    groups = rows.groupby("step", as_index=False)
    mean = groups.agg(tokens=("tokens", "mean"), loss=("loss", "mean"), n=("run", "nunique"))
    return mean[mean["n"] == n_runs].reset_index(drop=True)


def _draw_base(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the loss at step 0; one base model must give one loss, up to rounding."""
    start = rows[rows["step"] == 0]
    if start.empty:
        return
    if start["loss"].max() > (1 + _BASE_TOLERANCE) * start["loss"].min():
        ends = start.loc[[start["loss"].idxmin(), start["loss"].idxmax()]]
        worst = ", ".join(f"{row.run}: {row.loss:.4f}" for row in ends.itertuples())
        raise LseError(
            f"The runs start from different validation losses ({worst}): they were validated on "
            "different text. Train them again with the same text to compare them."
        )
    ax.axhline(start["loss"].mean(), color="0.3", linewidth=0.9, linestyle=":", zorder=1)


def _equal_spans(axes: list[Axes]) -> None:
    span = max(high - low for low, high in (ax.get_ylim() for ax in axes))
    for ax in axes:
        middle = sum(ax.get_ylim()) / 2
        ax.set_ylim(middle - span / 2, middle + span / 2)


def _loss_label(measured: str | None) -> str:
    where = "" if measured is None else f" in {language_label(measured)}"
    return f"Validation loss{where} (nats/token)"


def _legend(frame: pd.DataFrame) -> list[Line2D]:
    lines = [
        Line2D([], [], label=method_label(method), **method_line(method))
        for method in method_order(frame["method"])
    ]
    grey: dict[str, Any] = {"color": "0.3", "linestyle": "none", "marker": "o", "markersize": 3.5}
    return [
        *lines,
        Line2D([], [], color="0.3", linewidth=0.9, linestyle=":", label="Base model"),
        Line2D([], [], label="Lowest in trained language", **grey),
    ]
