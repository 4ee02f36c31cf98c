"""Draw what switching off one language's neurons does to every language: a square of cells.

Source: arXiv:2402.16438 (perplexity change, rows and columns as here); the control and
the relative scale are additions.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.core.errors import LseError, require_one_of
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import bare, blocks, in_order
from lse_interp.plotting.style import (
    drawing,
    language_label,
    points,
    sized,
)

__all__ = ["ablation_frame", "plot_ablation", "plot_ablation_panels"]

_VALUES = (
    *("relative_increase", "loss_increase", "control_relative_increase", "control_increase"),
)


def ablation_frame(matrix: AblationMatrix) -> pd.DataFrame:
    """List every pair of an ablated and a measured language, each in family order.

    Columns: ablated, measured, n_neurons, base_loss, loss_increase, relative_increase,
    control_increase, control_relative_increase; the last two are NaN without a control.
    """
    frame = matrix.to_frame()
    frame["control_relative_increase"] = frame["control_increase"] / frame["base_loss"]
    rows, columns = family_order(matrix.ablated), family_order(matrix.measured)
    return in_order(frame, ablated=rows, measured=columns)


@drawing("ablated", "measured")
def plot_ablation(
    frame: pd.DataFrame, *, value: str = "relative_increase", ax: Axes | None = None
) -> Axes:
    """Draw one cell per ablated (row) and measured (column) language.

    Colours diverge from 0: red where the loss rises, blue where it falls. A language's effect on
    itself is framed, and white lines part the branches of the family tree.

    Args:
        frame: what `ablation_frame` returns.
        value: `relative_increase`, `loss_increase`, `control_relative_increase` or
            `control_increase`.
        ax: where to draw; None makes a new figure, large enough for all languages.

    Raises:
        LseError: another `value`, or a control that was not measured.
    """
    require_one_of("value", value, _VALUES)
    if not frame[value].notna().all():
        raise LseError(
            f"No {value} here: the ablation was measured without a control. Measure it again with "
            "control='layer'."
        )
    if ax is None:
        n_rows, n_columns = frame["ablated"].nunique(), frame["measured"].nunique()
        _, ax = plt.subplots(
            figsize=sized(_inches(n_columns, around=2.4), _inches(n_rows, around=1.1))
        )
    _draw([ax], frame, [value])
    return ax


@drawing("ablated", "measured")
def plot_ablation_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw language neurons, and the random control on the same colour scale.

    Args:
        frame: what `ablation_frame` returns.

    Returns:
        The two Axes, of one new figure; one if no control was measured.
    """
    values = ["relative_increase", "control_relative_increase"]
    if not frame[values[1]].notna().all():
        return [plot_ablation(frame)]
    n_rows, n_columns = frame["ablated"].nunique(), frame["measured"].nunique()
    size = (2.2 + 2 * _inches(n_columns, around=0.2), _inches(n_rows, around=1.1))
    _, axes = plt.subplots(1, 2, figsize=sized(*size), sharey=True)
    _draw(list(axes), frame, values)
    return list(axes)


def _inches(n_cells: int, *, around: float) -> float:
    return float(np.clip(around + 0.23 * n_cells, 1.8, 14.0))


def _draw(axes: Sequence[Axes], frame: pd.DataFrame, values: Sequence[str]) -> None:
    """Draw several values on one colour scale."""
    rows, columns = (family_order(frame[axis].unique()) for axis in ("ablated", "measured"))
    empty = set(frame.loc[frame["n_neurons"] == 0, "ablated"])
    names = [language_label(code) + " (no neurons)" * (code in empty) for code in rows]
    limit = max(float(frame[values].abs().max(axis=None)), 1e-9)
    look: dict[str, Any] = {"cmap": "vlag", "vmin": -limit, "vmax": limit, "linewidths": 0.4}
    look |= {"xticklabels": columns, "yticklabels": names, "square": True, "cbar": False}
    for ax, value in zip(axes, values, strict=True):
        table = frame.pivot(index="ablated", columns="measured", values=value)
        sns.heatmap(table.reindex(index=rows, columns=columns), ax=ax, **look)
        for row, code in enumerate(rows):
            own = Rectangle((columns.index(code), row), 1, 1, fill=False, linewidth=0.8, zorder=3)
            ax.add_patch(own).set_edgecolor("0.15")
        for codes, line in ((rows, ax.axhline), (columns, ax.axvline)):
            for _, start, _ in blocks(codes, "branch")[1:]:
                line(start, color="white", linewidth=1.6, zorder=2)
        without = "as many random" if value.startswith("control") else "the language's"
        ax.set(xlabel="Loss measured in", ylabel="Neurons switched off")
        ax.set_title(f"Without {without} neurons")
        bare(ax)
        ax.tick_params(axis="x", rotation=90)
        ax.label_outer(remove_inner_ticks=True)
    share = "relative" in values[0]
    bar = axes[0].figure.colorbar(
        axes[0].collections[0],
        ax=axes,
        ticks=MaxNLocator(nbins=5),
        format=PercentFormatter(1) if share else None,
        shrink=0.6,
        aspect=25,
        pad=0.01,
    )
    bar.outline.set_visible(False)
    bar.set_label(
        "Rise in loss" if share else "Rise in loss (nats per sentence)", fontsize=points(7)
    )
    bar.ax.tick_params(labelsize=points(6), length=2)
