"""Compare fine-tuning methods: the change in loss of every language, and target against random.

Source: an addition to the paper, section 5.2.1, which compares task scores.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lse_interp.core.errors import LseError
from lse_interp.core.languages import family_order
from lse_interp.plotting.method_tables import other_languages, select_measured
from lse_interp.plotting.panels import (
    dot,
    dots_in_rows,
    interval,
    label_mean,
    language_dots,
    language_rows,
    spread,
)
from lse_interp.plotting.style import (
    drawing,
    language_color,
    language_label,
    method_label,
    method_order,
    points,
    sized,
)

__all__ = [
    "plot_methods",
    "plot_methods_panels",
    "plot_target_against_random",
]

_RANDOM_MARKERS = {"random:layer": "o", "random:size": "s", "random:activity": "^"}
_HEIGHT = 3.0
_CHANGE = "Change in loss (nats/sentence)"


@drawing("language", title_pad=14)
def plot_methods(
    frame: pd.DataFrame, *, measured: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw one column of dots per method: a dot is a trained language, the bar their mean.

    Light lines are 95 % intervals, paired over sentences. Below 0 the model is better than base.

    Args:
        frame: what `methods_frame` returns.
        measured: the language measured; by default the one trained.
        ax: where to draw; None makes a new figure with a legend.

    Raises:
        LseError: nothing was measured there.
    """
    rows = select_measured(frame, measured=measured)
    methods = method_order(rows["method"])
    codes = family_order(rows["language"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=sized(_width(methods) + 1.2, _HEIGHT))
        ax.figure.legend(handles=language_dots(codes), loc="outside right center")
    offsets = dict(zip(codes, spread(len(codes), width=0.32), strict=True))
    ax.axhline(0, color="0.3", linewidth=0.8, zorder=1)
    for place, method in enumerate(methods):
        dots = rows[rows["method"] == method]
        for row in dots.itertuples():
            color, at = language_color(row.language), place + offsets[row.language]
            interval(ax, at, [row.low, row.high], color=color, upright=True)
            ax.plot(at, row.difference, color=color, **dot())
        mean = dots["difference"].mean()
        ax.plot([place - 0.4, place + 0.4], [mean] * 2, color="0.1", linewidth=1.6, zorder=2.5)
        label_mean(ax, place=place, text=f"{mean:+.2f}".replace("-", "\N{MINUS SIGN}"))
    ax.set_xticks(range(len(methods)), [method_label(name).replace(" ", "\n") for name in methods])
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(methods) - 0.4)
    ax.set_ylabel(_CHANGE)
    ax.grid(visible=False, axis="x")
    return ax


@drawing("language", title_pad=14)
def plot_target_against_random(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the loss with the target subnetwork less that with random neurons, by language.

    Lines are 95 % intervals, paired over sentences, if the table holds them. Left of 0 the target
    subnetwork is better. A vertical tick is the mean over languages.

    Args:
        frame: what `methods_frame` returns.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: no random control was measured.
    """
    pairs = frame[(frame["against"] != "base") & (frame["measured"] == frame["language"])]
    if pairs.empty:
        raise LseError(
            "No language has both a target run and a random control. Train one: "
            "`python -m lse_interp.finetune --method random --random-match layer`."
        )
    codes = family_order(pairs["language"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=sized(3.2, 0.9 + 0.2 * len(codes)))
    controls = [name for name in _RANDOM_MARKERS if name in set(pairs["against"])]
    shifts = dict(zip(controls, np.linspace(0.2, -0.2, 2 * len(controls) + 1)[1::2], strict=True))
    for control in controls:
        rows, look = pairs[pairs["against"] == control], dot(_RANDOM_MARKERS[control])
        dots_in_rows(ax, rows, value="difference", codes=codes, shift=-shifts[control], **look)
    language_rows(ax, codes)
    ax.set_xlabel("Target less random (nats/sentence)\n\N{LEFTWARDS ARROW} target is better")
    ax.legend(
        handles=[
            Line2D([], [], color="0.3", label=method_label(name), **dot(_RANDOM_MARKERS[name]))
            for name in controls
        ],
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.98),
        ncols=len(controls),
        borderpad=0,
        handletextpad=0,
        columnspacing=0.8,
        fontsize=points(6.5),
    )
    return ax


@drawing("language")
def plot_methods_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw the trained language, every other language measured, and target against random.

    Args:
        frame: what `methods_frame` returns.

    Returns:
        The Axes of one new figure, in that order; no last panel without a random control.

    Raises:
        LseError: nothing was measured in the trained languages.
    """
    others = other_languages(frame)
    paired = bool((frame["against"] != "base").any())
    methods = method_order(select_measured(frame, measured=None)["method"])
    widths = [_width(methods)] * (1 + len(others)) + [2.6] * paired
    figure, grid = plt.subplots(
        1,
        len(widths),
        figsize=sized(sum(widths) + (0 if paired else 1.2), _HEIGHT + 0.3),
        width_ratios=widths,
        squeeze=False,
    )
    axes = list(grid.flat)
    plot_methods(frame, ax=axes[0]).set_title("In the language trained", pad=points(14))
    for ax, code in zip(axes[1:], others, strict=False):
        plot_methods(frame, measured=code, ax=ax)
        ax.set_title(f"In {language_label(code)}", pad=points(14))
        ax.set_ylabel("")
    if paired:
        plot_target_against_random(frame, ax=axes[-1]).set_title("Against random", pad=points(14))
    else:
        codes = family_order(frame["language"].unique())
        figure.legend(handles=language_dots(codes), loc="outside right center")
    return axes


def _width(methods: Sequence[str]) -> float:
    return 0.7 + 0.52 * len(methods)
