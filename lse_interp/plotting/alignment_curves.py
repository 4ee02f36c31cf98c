"""Draw how close parallel sentences lie: over the layers, and averaged over them.

Source: paper, Figure 7; the shuffled control and the intervals are additions.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.core.errors import LseError
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import LEGEND, dot, grid, label_mean, language_lines, spread
from lse_interp.plotting.style import (
    COLUMN_INCHES,
    language_color,
    language_label,
    language_line,
    themed,
)

__all__ = [
    "alignment_frame",
    "layer_average_frame",
    "plot_alignment",
    "plot_layer_average",
    "plot_layer_average_panels",
]

_AVERAGED = {"cosine": "Cosine, mean over layers (%)", "gap": "Gap to other pairs (points)"}

_PANEL_HEIGHT = 2.7
_LEGEND_INCHES = 1.0


def alignment_frame(curves: AlignmentCurves) -> pd.DataFrame:
    """List what `plot_alignment` draws: one row per model, language and layer.

    Columns: model, language, against, layer, cosine, low, high, shuffled, gap, retrieval.
    """
    return curves.to_frame()


def layer_average_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Average over the layers: one row per model, language and language compared with.

    Columns: model, language, against, cosine, shuffled, gap, retrieval; all in percent.

    Args:
        frame: what `alignment_frame` returns, of one result or of several stacked.

    Source: paper, appendix D, Tables 27 to 38 (`cosine`).
    """
    keys = ["model", "language", "against"]
    values = ["cosine", "shuffled", "gap", "retrieval"]
    means = frame.groupby(keys, sort=False, as_index=False)[values].mean()
    return means.assign(**{name: 100 * means[name] for name in values})


@themed
def plot_alignment(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw cosine over layers, one line per language, its shuffled control faint behind it.

    Shades are 95 % bootstrap intervals. Several models get one panel each, on one scale.

    Args:
        frame: what `alignment_frame` returns, of one language.
        ax: where to draw, for one model only; None makes a new figure.

    Returns:
        The axes. With several models, the first of them; `.figure` has them all.

    Raises:
        LseError: several languages; or several models and an `ax`.
    """
    models = list(dict.fromkeys(frame["model"]))
    languages = frame["language"].unique()
    if len(languages) != 1:
        raise LseError(
            f"One figure shows one language against others; the frame holds {len(languages)} "
            f"({', '.join(languages)}). Select one."
        )
    if ax is not None and len(models) > 1:
        raise LseError(
            f"One Axes shows one model; the frame holds {len(models)} ({', '.join(models)}). "
            "Leave out `ax` to get a panel each, or select one."
        )
    panels = [ax] if ax is not None else _panels(len(models))
    limits = _limits(frame)
    for panel, model in zip(panels, models, strict=True):
        _draw_curves(panel, frame[frame["model"] == model], limits=limits)
        if len(models) > 1:
            panel.set_title(model)
    panels[0].set_ylabel(f"Cosine with {language_label(languages[0])}")
    handles = _legend_handles(family_order(frame["against"].unique()))
    if ax is None:
        panels[0].figure.legend(handles=handles, loc="outside right center", **LEGEND)
    else:
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), **LEGEND)
    return panels[0]


@themed
def plot_layer_average(
    frame: pd.DataFrame, *, value: str = "cosine", ax: Axes | None = None
) -> Axes:
    """Draw one column of dots per model and a bar at their mean.

    If the frame holds one language, a dot is a language compared with. If it holds several, a dot
    is one of them, averaged over the languages it is compared with. Dots replace bars from zero
    because all values lie in a narrow band.

    Args:
        frame: what `layer_average_frame` returns.
        value: `cosine` or `gap`.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: another value.

    Source: paper, Figure 7c (`cosine`).
    """
    if value not in _AVERAGED:
        raise LseError(f"`value` must be cosine or gap; got {value!r}.")
    by = "language" if frame["language"].nunique() > 1 else "against"
    models = list(dict.fromkeys(frame["model"]))
    dots = frame.groupby(["model", by], as_index=False)[value].mean()
    means = frame.groupby("model")[value].mean()
    codes = family_order(dots[by].unique())
    if ax is None:
        width = max(COLUMN_INCHES, 0.45 * len(models) + _LEGEND_INCHES + 0.6)
        _, ax = plt.subplots(figsize=(width, _PANEL_HEIGHT))
    # Spread sideways by language, so that dots of equal height stay apart.
    for code, offset in zip(codes, spread(len(codes), width=0.26), strict=True):
        values = dots[dots[by] == code].set_index("model")[value].reindex(models)
        ax.plot(
            np.arange(len(models)) + offset,
            values,
            color=language_color(code),
            label=language_label(code),
            **dot(size=3.4),
        )
    for place, model in enumerate(models):
        ax.plot([place - 0.36, place + 0.36], [means[model]] * 2, color="0.1", linewidth=1.6)
        label_mean(ax, place=place, text=f"{means[model]:.2f}")
    rotation = 0 if max(map(len, models)) * len(models) < 44 else 30
    ax.set_xticks(
        range(len(models)), models, rotation=rotation, ha="right" if rotation else "center"
    )
    ax.set_xlim(-0.6, len(models) - 0.4)
    ax.set_ylabel(_AVERAGED[value])
    ax.grid(visible=False, axis="x")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2, labelspacing=0.3)
    return ax


@themed
def plot_layer_average_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw the cosine and the gap: the cosine alone misleads.

    Args:
        frame: what `layer_average_frame` returns.

    Returns:
        The two Axes of a new figure.
    """
    n_models = frame["model"].nunique()
    width = 2 * max(2.3, 0.42 * n_models + 0.6) + _LEGEND_INCHES
    _, axes = plt.subplots(1, 2, figsize=(width, _PANEL_HEIGHT + 0.3))
    for ax, value in zip(axes, _AVERAGED, strict=True):
        plot_layer_average(frame, value=value, ax=ax)
    axes[0].get_legend().remove()
    return list(axes)


def _panels(n_models: int) -> list[Axes]:
    n_columns = 2 if n_models == 4 else min(n_models, 3)
    n_rows = -(-n_models // n_columns)
    width = 2.6 * n_columns + _LEGEND_INCHES
    size = (max(width, COLUMN_INCHES), _PANEL_HEIGHT * n_rows)
    return grid(n_models, n_columns=n_columns, size=size, sharex=True, sharey=True)[1]


def _limits(frame: pd.DataFrame) -> tuple[float, float]:
    lowest = float(frame[["low", "shuffled"]].min().min())
    return (min(0.0, 1.05 * lowest), 1.0)


def _draw_curves(ax: Axes, frame: pd.DataFrame, *, limits: tuple[float, float]) -> None:
    for code in family_order(frame["against"].unique()):
        rows = frame[frame["against"] == code].sort_values("layer")
        line = language_line(code)
        ax.plot(rows["layer"], rows["shuffled"], linewidth=0.8, alpha=0.35, zorder=1, **line)
        ax.fill_between(
            rows["layer"], rows["low"], rows["high"], color=line["color"], alpha=0.15, linewidth=0
        )
        ax.plot(rows["layer"], rows["cosine"], label=language_label(code), **line)
    ax.set_xlabel("Layer")
    ax.label_outer()
    ax.set_ylim(*limits)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend_handles(codes: list[str]) -> list[Line2D]:
    return [
        *language_lines(codes),
        Line2D([], [], color="0.3", linewidth=0.8, alpha=0.5, label="not parallel"),
    ]
