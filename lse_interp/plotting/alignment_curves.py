"""Draw how close parallel sentences lie: over the layers, and averaged over them.

Source: paper, Figure 7 (raw cosines); centring, the shuffled control and intervals are additions.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.analysis.cosine import STATISTICS
from lse_interp.core.errors import LseError, require_one_of
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import LEGEND, dot, grid, label_mean, language_lines, spread
from lse_interp.plotting.style import (
    COLUMN_INCHES,
    drawing,
    language_color,
    language_label,
    language_line,
    sized,
)

__all__ = [
    "alignment_frame",
    "layer_average_frame",
    "plot_alignment",
    "plot_layer_average",
    "plot_layer_average_panels",
]

_COSINES = {"centred": "Centred cosine", "raw": "Raw cosine"}

_PANEL_HEIGHT = 2.7
_LEGEND_INCHES = 1.0


def alignment_frame(curves: AlignmentCurves) -> pd.DataFrame:
    """List what `plot_alignment` draws: one row per model, kind of vectors, language and layer.

    Columns as in `AlignmentCurves.to_frame`.
    """
    return curves.to_frame()


def layer_average_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Average over the layers: one row per model, language, language compared with and vectors.

    Columns: model, language, against, vectors, cosine, shuffled, gap, retrieval; all in percent.

    Args:
        frame: what `alignment_frame` returns, of one result or of several stacked.

    Source: paper, appendix D, Tables 27 to 38 (`cosine` of `raw` vectors).
    """
    keys, values = ["model", "language", "against", "vectors"], list(STATISTICS)
    means = frame.groupby(keys, sort=False, as_index=False)[values].mean()
    return means.assign(**{name: 100 * means[name] for name in values})


@drawing("against")
def plot_alignment(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw cosine over layers, one line per language, its shuffled control faint behind it.

    Shades are 95 % bootstrap intervals. A row of panels per kind of vectors, a column per model, on
    one scale.

    Args:
        frame: what `alignment_frame` returns, of one language.
        ax: where to draw, for one model and one kind of vectors; None makes a new figure.

    Returns:
        The axes. With several panels, the first of them; `.figure` has them all.

    Raises:
        LseError: several languages; or several panels and an `ax`.
    """
    language = _single(frame, "language")
    models, kinds = (list(dict.fromkeys(frame[name])) for name in ("model", "vectors"))
    if ax is not None:
        _single(frame, "model"), _single(frame, "vectors")
    panels = [ax] if ax is not None else _panels(len(kinds), len(models))
    limits = (min(0.0, 1.05 * float(frame[["cosine_low", "shuffled"]].min().min())), 1.0)
    for panel, (kind, model) in zip(panels, itertools.product(kinds, models), strict=True):
        part = frame[(frame["model"] == model) & (frame["vectors"] == kind)]
        _draw_curves(panel, part, limits=limits)
        panel.set_ylabel(f"{_COSINES[kind]} with {language_label(language)}")
        panel.label_outer()
    for panel, model in zip(panels, models if len(models) > 1 else (), strict=False):
        panel.set_title(model)
    handles = [
        *language_lines(family_order(frame["against"].unique())),
        Line2D([], [], color="0.3", linewidth=0.8, alpha=0.5, label="not parallel"),
    ]
    if ax is None:
        panels[0].figure.legend(handles=handles, loc="outside right center", **LEGEND)
    else:
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), **LEGEND)
    return panels[0]


@drawing("against", title_pad=14)
def plot_layer_average(
    frame: pd.DataFrame, *, statistic: str = "cosine", ax: Axes | None = None
) -> Axes:
    """Draw one column of dots per model and a bar at their mean.

    If the frame holds one language, a dot is a language compared with. If it holds several, a dot
    is one of them, averaged over the languages it is compared with. Dots replace bars from zero
    because all values lie in a narrow band.

    Args:
        frame: what `layer_average_frame` returns, of one kind of vectors.
        statistic: `cosine`, `shuffled`, `gap` or `retrieval`.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: another statistic, or several kinds of vectors.

    Source: paper, Figure 7c (`cosine` of `raw` vectors).
    """
    require_one_of("statistic", statistic, STATISTICS)
    kind = _single(frame, "vectors")
    by = "language" if frame["language"].nunique() > 1 else "against"
    models = list(dict.fromkeys(frame["model"]))
    dots = frame.groupby(["model", by], as_index=False)[statistic].mean()
    means = frame.groupby("model")[statistic].mean()
    codes = family_order(dots[by].unique())
    if ax is None:
        width = max(COLUMN_INCHES, 0.45 * len(models) + _LEGEND_INCHES + 0.6)
        _, ax = plt.subplots(figsize=sized(width, _PANEL_HEIGHT))
    # Spread sideways by language, so that dots of equal height stay apart.
    for code, offset in zip(codes, spread(len(codes), width=0.26), strict=True):
        values = dots[dots[by] == code].set_index("model")[statistic].reindex(models)
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
    what = _COSINES[kind] if statistic == "cosine" else f"{statistic.capitalize()}, {kind}"
    ax.set_ylabel(f"{what}, mean over layers (%)")
    ax.grid(visible=False, axis="x")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2, labelspacing=0.3)
    return ax


@drawing("against")
def plot_layer_average_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw the centred cosine left, and the raw one right: the raw one alone misleads.

    Args:
        frame: what `layer_average_frame` returns.

    Returns:
        The Axes of a new figure.
    """
    kinds = list(dict.fromkeys(frame["vectors"]))
    width = max(2.3, 0.42 * frame["model"].nunique() + 0.6)
    size = (len(kinds) * width + _LEGEND_INCHES, _PANEL_HEIGHT + 0.3)
    axes = list(plt.subplots(1, len(kinds), figsize=sized(*size), squeeze=False)[1].flat)
    for ax, kind in zip(axes, kinds, strict=True):
        plot_layer_average(frame[frame["vectors"] == kind], ax=ax)
    for ax in axes[:-1]:
        ax.get_legend().remove()
    return axes


def _panels(n_rows: int, n_columns: int) -> list[Axes]:
    width = max(COLUMN_INCHES, 1.45 * n_columns + 0.6) + _LEGEND_INCHES
    size = (width, (_PANEL_HEIGHT if n_columns == 1 else 2.1) * n_rows)
    return grid(n_rows * n_columns, n_columns=n_columns, size=size, sharex=True, sharey=True)[1]


def _single(frame: pd.DataFrame, column: str) -> str:
    """Return the only value of a column."""
    values = frame[column].unique()
    if len(values) != 1:
        raise LseError(
            f"One picture shows one `{column}`; the frame holds {len(values)} "
            f"({', '.join(values)}). Select one, or leave out `ax` to get a panel each."
        )
    return str(values[0])


def _draw_curves(ax: Axes, frame: pd.DataFrame, *, limits: tuple[float, float]) -> None:
    for code in family_order(frame["against"].unique()):
        rows = frame[frame["against"] == code].sort_values("layer")
        line, layers = language_line(code), rows["layer"]
        ax.plot(layers, rows["shuffled"], linewidth=0.8, alpha=0.35, zorder=1, **line)
        ends = (rows["cosine_low"], rows["cosine_high"])
        ax.fill_between(layers, *ends, color=line["color"], alpha=0.15, linewidth=0)
        ax.plot(layers, rows["cosine"], label=language_label(code), **line)
    ax.set_xlabel("Layer")
    ax.set_ylim(*limits)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
