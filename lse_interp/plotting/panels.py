"""What several pictures share: sizes, grids of panels, dots, legends, rows of languages."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lse_interp.core.languages import describe
from lse_interp.plotting.style import (
    language_color,
    language_label,
    language_line,
    method_color,
    method_label,
    method_order,
    points,
    sized,
)

__all__ = [
    "LEGEND",
    "LEGEND_INCHES",
    "PANEL_HEIGHT",
    "bare",
    "blocks",
    "dot",
    "dots_in_rows",
    "grid",
    "in_order",
    "interval",
    "label_mean",
    "language_dots",
    "language_lines",
    "language_rows",
    "method_dots",
    "spread",
]

PANEL_HEIGHT = 2.6
"""Height of a panel of curves, in inches."""
LEGEND_INCHES = 1.25
"""Room for a legend at the side."""
LEGEND: Mapping[str, Any] = {"handlelength": 2.6, "labelspacing": 0.35}
"""Look of a legend of lines."""


def grid(
    n: int, *, n_columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `n` panels in rows, without the spare ones of the last row.

    Args:
        n: number of panels.
        n_columns: panels in a row.
        size: of the figure, in inches.
        shared: `sharex`, `sharey`.
    """
    n_rows = -(-n // n_columns)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=sized(*size), squeeze=False, **shared)
    for spare in axes.flat[n:]:
        figure.delaxes(spare)
    return figure, list(axes.flat[:n])


def in_order(frame: pd.DataFrame, **orders: Iterable[Any]) -> pd.DataFrame:
    """Sort a frame by columns, the first one first, each by its own order of values."""
    places = {name: {value: at for at, value in enumerate(orders[name])} for name in orders}
    keys = [frame[name].map(places[name]) for name in places]
    # The last key decides first.
    return frame.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)


def blocks(codes: Sequence[str], group: str) -> list[tuple[str, int, int]]:
    """Cut languages into runs of one `branch` or `family`: its name, its start and its stop."""
    names = [getattr(describe(code), group) for code in codes]
    found, start = [], 0
    for name, members in itertools.groupby(names):
        stop = start + len(list(members))
        found.append((name, start, stop))
        start = stop
    return found


def bare(ax: Axes) -> None:
    """Leave cells alone on their Axes: no grid, no border, no tick marks."""
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2)


def dot(shape: str = "o", *, size: float = 3.6) -> dict[str, Any]:
    """Return how a dot without a line looks."""
    return {"linestyle": "none", "marker": shape, "markersize": points(size), "markeredgewidth": 0}


def interval(
    ax: Axes, at: float, ends: Sequence[float], *, color: str, upright: bool = False
) -> None:
    """Draw a light line between two ends: along the row `at`, or upright in that column."""
    places = ([at, at], ends) if upright else (ends, [at, at])
    ax.plot(*places, color=color, linewidth=1.2, alpha=0.4)


def spread(n: int, *, width: float) -> np.ndarray:
    """Return `n` shifts from `-width` to `width`, so that dots of equal value stay apart."""
    return np.linspace(-width, width, n) if n > 1 else np.zeros(1)


def label_mean(ax: Axes, *, place: int, text: str) -> None:
    """Write a mean above the axes, where no dot is in its way."""
    ax.text(
        place,
        1.01,
        text,
        transform=ax.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=points(6.5),
        fontweight="bold",
    )


def language_rows(ax: Axes, codes: Sequence[str]) -> None:
    """Give every language a row, the first on top; the lowest row is for their mean."""
    ax.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    ax.axhline(len(codes) - 0.5, color="0.8", linewidth=0.8)
    ax.set_yticks(range(len(codes) + 1), [*map(language_label, codes), "Mean"])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(codes) + 0.6, -0.6)
    ax.grid(visible=False, axis="y")


def dots_in_rows(
    ax: Axes, rows: pd.DataFrame, *, value: str, codes: Sequence[str], shift: float, **look: Any
) -> None:
    """Draw a dot per language with its interval, or a stem from 0, and their mean below them.

    Args:
        ax: Axes with `language_rows`.
        rows: columns language, low, high, and the value.
        value: name of its column.
        codes: the language of each row.
        shift: how far below the middle of its row a dot is.
        look: of the dots.
    """
    for row in rows.itertuples():
        x, at, color = getattr(row, value), codes.index(row.language), language_color(row.language)
        ends = [0.0, x] if np.isnan(row.low) else [row.low, row.high]
        interval(ax, at + shift, ends, color=color)
        ax.plot(x, at + shift, color=color, **look)
    mean = rows[value].mean()
    if rows["low"].isna().any():
        interval(ax, len(codes) + shift, [0.0, mean], color="0.1")
    ax.plot(mean, len(codes) + shift, color="0.1", **look)


def language_lines(codes: Iterable[str], **look: Any) -> list[Line2D]:
    """Return legend handles of languages that are lines."""
    return [
        Line2D([], [], label=language_label(code), **look, **language_line(code)) for code in codes
    ]


def language_dots(codes: Iterable[str]) -> list[Line2D]:
    """Return legend handles of languages that are dots."""
    return [
        Line2D([], [], color=language_color(code), label=language_label(code), **dot())
        for code in codes
    ]


def method_dots(methods: Iterable[str], *, size: float) -> list[Line2D]:
    """Return legend handles of methods that are dots, in the order of every figure."""
    return [
        Line2D([], [], color=method_color(name), label=method_label(name), **dot(size=size))
        for name in method_order(methods)
    ]
