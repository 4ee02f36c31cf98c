"""Draw where in the depth of a model the neurons of each language sit.

Source: paper, Figures 2 and 10 (all languages in one plot), 12 and 13 (one plot per language).
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lse_interp.core.errors import require_one_of
from lse_interp.core.languages import describe, family_order
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.panels import grid
from lse_interp.plotting.style import (
    PAGE_INCHES,
    drawing,
    language_color,
    language_label,
    language_line,
    points,
    sized,
)

__all__ = ["describe_layers", "layer_frame", "plot_layers", "plot_small_multiples"]

_Y_LABELS = {"n_neurons": "Language neurons", "share": "Share of the language's neurons"}
_LEGEND_ROWS = 24
_MOST_NAMED = 2 * _LEGEND_ROWS
"""More languages than this are drawn in the colours of their families."""
_MOST_FAMILIES, _LEAST_MEMBERS = 9, 3
_OTHERS, _OTHERS_COLOR = "other families", "0.1"


def layer_frame(neurons: NeuronSets) -> pd.DataFrame:
    """Count the neurons of every language in every layer, empty layers included.

    Columns: language (in family order), layer, n_neurons, share (of the language's neurons;
    NaN if it has none).
    """
    codes = family_order(neurons)
    counts = np.stack([neurons.counts(code).numpy() for code in codes])
    frame = pd.DataFrame(
        {
            "language": np.repeat(codes, counts.shape[1]),
            "layer": np.tile(range(counts.shape[1]), len(codes)),
            "n_neurons": counts.ravel(),
        }
    )
    totals = frame.groupby("language")["n_neurons"].transform("sum")
    return frame.assign(share=frame["n_neurons"] / totals)


def describe_layers(frame: pd.DataFrame) -> str:
    """Say in a sentence or two what the lines of `plot_layers` are."""
    n_languages = frame["language"].nunique()
    text = f"Neurons of {n_languages} languages in each layer."
    if n_languages <= _MOST_NAMED:
        return text
    return f"{text} Thin, one line per language; thick, the median of each larger family."


@drawing("language")
def plot_layers(frame: pd.DataFrame, *, value: str = "n_neurons", ax: Axes | None = None) -> Axes:
    """Draw the neurons over the layers, one line per language.

    More than 48 languages are too many to name: they become thin lines in the colour of their
    family, under the median of each family.

    Args:
        frame: what `layer_frame` returns.
        value: `n_neurons`, or `share` to compare languages of unequal size.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: another `value`.

    Source: paper, Figures 2 and 10.
    """
    require_one_of("value", value, _Y_LABELS)
    codes = family_order(frame["language"].unique())
    named = len(codes) <= _MOST_NAMED
    n_columns = -(-len(codes) // _LEGEND_ROWS) if named else 1
    if ax is None:
        height = 3.0 if len(codes) <= 16 else 3.6
        _, ax = plt.subplots(figsize=sized(4.4 + 1.3 * n_columns if named else 6.6, height))
    if named:
        for code in codes:
            rows = frame[frame["language"] == code].sort_values("layer")
            ax.plot(rows["layer"], rows[value], label=language_label(code), **language_line(code))
    else:
        _draw_families(ax, frame, codes=codes, value=value)
    ax.set_xlabel("Layer")
    ax.set_ylabel(_Y_LABELS[value])
    ax.set_xlim(frame["layer"].min(), frame["layer"].max())
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=n_columns,
        handlelength=2.8,
        labelspacing=0.3,
        **({} if named else {"title": "Median (number of languages)", "title_fontsize": points(7)}),
    )
    return ax


@drawing("language")
def plot_small_multiples(frame: pd.DataFrame) -> list[Axes]:
    """Draw one histogram over the layers per language, all on the same axes.

    Args:
        frame: what `layer_frame` returns.

    Returns:
        One Axes per language, in family order, all of one new figure.

    Source: paper, Figures 12 and 13.
    """
    codes = family_order(frame["language"].unique())
    n_columns = _n_columns(len(codes))
    n_rows = -(-len(codes) // n_columns)
    width = max(PAGE_INCHES * min(1.0, n_columns / 4), 0.95 * n_columns)
    size = (width, 0.5 + 1.05 * n_rows)
    figure, panels = grid(len(codes), n_columns=n_columns, size=size, sharex=True, sharey=True)
    # Head room for the number written in the corner of each panel.
    panels[0].set_ylim(0, 1.25 * float(frame["n_neurons"].max()) or 1.0)
    # Characters of a full-sized title that fit above a panel.
    n_fitting = 13 if n_columns < 10 else 11
    by_code = dict(iter(frame.groupby("language")))
    for ax, code in zip(panels, codes, strict=True):
        _draw_histogram(ax, by_code[code], code=code, n_fitting=n_fitting)
    # The lowest panel of each column, which is not always in the last row.
    for ax in panels[-n_columns:]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("Layer", fontsize=points(8))
    figure.supylabel(_Y_LABELS["n_neurons"], fontsize=points(8))
    return panels


def _draw_families(ax: Axes, frame: pd.DataFrame, *, codes: list[str], value: str) -> None:
    """Draw thin lines of languages and the median of each larger family, the largest first."""
    families = pd.Series({code: describe(code).family for code in codes})
    sizes = families.value_counts()
    largest = sizes.index[sizes >= _LEAST_MEMBERS][:_MOST_FAMILIES]
    families = families.where(families.isin(largest), _OTHERS)
    # All but its grey, which is too close to the colour of the others.
    palette = [hue for at, hue in enumerate(sns.color_palette("colorblind")) if at != 7]
    colors = dict(zip(largest, palette, strict=False)) | {_OTHERS: _OTHERS_COLOR}
    table = frame.pivot(index="layer", columns="language", values=value)
    for code in codes:
        line = {"color": colors[families[code]], "linewidth": 0.5, "alpha": 0.35}
        ax.plot(table.index, table[code], label="_", **line)
    for family in [name for name in colors if (families == name).any()]:
        members = families.index[families == family]
        median = table[members].median(axis=1)
        line = {"linestyle": "--" if family == _OTHERS else "-", "linewidth": 2.0}
        label = f"{family} ({len(members)})"
        ax.plot(median.index, median, color=colors[family], label=label, **line)


def _n_columns(n_panels: int) -> int:
    """Choose the number of columns that leaves the fewest panels empty."""
    if n_panels <= 4:
        return n_panels
    choices = range(4, 8) if n_panels <= 42 else range(10, 14)
    return min(choices, key=lambda n_columns: (-n_panels % n_columns, n_columns))


def _draw_histogram(ax: Axes, rows: pd.DataFrame, *, code: str, n_fitting: int) -> None:
    ax.bar(rows["layer"], rows["n_neurons"], width=0.9, color=language_color(code), linewidth=0)
    name = language_label(code)
    # Long names shrink to the width of the narrowest panel.
    ax.set_title(name, fontsize=points(7.5) * min(1.0, n_fitting / len(name)), pad=2)
    ax.text(
        0.03,
        0.95,
        f"{int(rows['n_neurons'].sum()):,}",
        transform=ax.transAxes,
        ha="left",
        va="top",
        fontsize=points(6.5),
        color="0.35",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )
    ax.grid(visible=False, axis="x")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
