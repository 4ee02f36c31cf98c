"""Draw what switching off one language's neurons does to every language: a square of cells.

Source: arXiv:2402.16438 (perplexity change, rows and columns as here); the control and
the relative scale are additions.
"""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.languages import describe, family_order
from lse_interp.plotting.style import language_label, themed

__all__ = ["ablation_frame", "plot_ablation", "plot_ablation_panels"]

_CMAP = sns.color_palette("vlag", as_cmap=True)
_LABELS = {
    "relative_increase": "Rise in loss",
    "loss_increase": "Rise in loss (nats per sentence)",
    "control_relative_increase": "Rise in loss",
    "control_increase": "Rise in loss (nats per sentence)",
}
_TITLES = {
    "relative_increase": "Without the language's neurons",
    "loss_increase": "Without the language's neurons",
    "control_relative_increase": "Without as many random neurons",
    "control_increase": "Without as many random neurons",
}
_NO_NEURONS = " (no neurons)"


def ablation_frame(matrix: AblationMatrix) -> pd.DataFrame:
    """List every pair of an ablated and a measured language, each in family order.

    Columns: ablated, measured, n_neurons, base_loss, loss_increase, relative_increase,
    control_increase, control_relative_increase; the last two are NaN without a control.
    """
    frame = matrix.to_frame()
    frame["control_relative_increase"] = frame["control_increase"] / frame["base_loss"]
    rows = {code: at for at, code in enumerate(family_order(matrix.ablated))}
    columns = {code: at for at, code in enumerate(family_order(matrix.measured))}
    order = np.lexsort((frame["measured"].map(columns), frame["ablated"].map(rows)))
    return frame.iloc[order].reset_index(drop=True)


@themed
def plot_ablation(
    frame: pd.DataFrame,
    *,
    value: str = "relative_increase",
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one cell per ablated (row) and measured (column) language.

    Colours diverge from 0: red where the loss rises, blue where it falls. A language's effect on
    itself is framed, and white lines part the branches of the family tree.

    Args:
        frame: what `ablation_frame` returns.
        value: `relative_increase`, `loss_increase`, `control_relative_increase` or
            `control_increase`.
        limit: end of the colour scale, above 0; None takes the largest absolute value.
        ax: where to draw; None makes a new figure, large enough for all languages.

    Raises:
        LseError: another `value`, a `limit` not above 0, or a control that was not measured.
    """
    _check(frame, value=value, limit=limit)
    if ax is None:
        n_rows, n_columns = frame["ablated"].nunique(), frame["measured"].nunique()
        _, ax = plt.subplots(figsize=(_inches(n_columns, around=2.4), _inches(n_rows, around=1.1)))
    mesh = _draw(ax, frame, value=value, limit=limit or _limit(frame[value]))
    _add_colorbar([ax], mesh, value)
    return ax


@themed
def plot_ablation_panels(frame: pd.DataFrame, *, value: str = "relative_increase") -> list[Axes]:
    """Draw language neurons, and the random control on the same colour scale.

    Args:
        frame: what `ablation_frame` returns.
        value: `relative_increase` or `loss_increase`.

    Returns:
        The two Axes, of one new figure; one if no control was measured.

    Raises:
        LseError: another `value`.
    """
    controls = {
        "relative_increase": "control_relative_increase",
        "loss_increase": "control_increase",
    }
    if value not in controls:
        raise LseError(
            f"`value` must be one of {', '.join(controls)}; got {value!r}. "
            f"{near_misses(value, controls)}"
        )
    control = controls[value]
    if not frame[control].notna().all():
        return [plot_ablation(frame, value=value)]
    n_rows, n_columns = frame["ablated"].nunique(), frame["measured"].nunique()
    size = (2.2 + 2 * _inches(n_columns, around=0.2), _inches(n_rows, around=1.1))
    _, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    limit = _limit(frame[[value, control]])
    names = zip(axes, (value, control), strict=True)
    meshes = [_draw(ax, frame, value=name, limit=limit) for ax, name in names]
    _add_colorbar(list(axes), meshes[0], value)
    return list(axes)


def _draw(ax: Axes, frame: pd.DataFrame, *, value: str, limit: float) -> QuadMesh:
    rows, columns = (family_order(frame[axis].unique()) for axis in ("ablated", "measured"))
    grid = frame.pivot(index="ablated", columns="measured", values=value)
    mesh = ax.pcolormesh(
        np.arange(len(columns) + 1),
        np.arange(len(rows) + 1),
        grid.reindex(index=rows, columns=columns).to_numpy(dtype=float),
        cmap=_CMAP,
        norm=Normalize(-limit, limit),
        edgecolors="white",
        linewidth=0.4,
    )
    _frame_own(ax, rows=rows, columns=columns)
    _part_branches(ax, rows=rows, columns=columns)
    _label(ax, rows=rows, columns=columns, empty=_empty(frame))
    ax.set_title(_TITLES[value])
    return mesh


def _inches(n_cells: int, *, around: float) -> float:
    return float(np.clip(around + 0.23 * n_cells, 1.8, 14.0))


def _check(frame: pd.DataFrame, *, value: str, limit: float | None) -> None:
    if value not in _LABELS:
        raise LseError(
            f"`value` must be one of {', '.join(_LABELS)}; got {value!r}. "
            f"{near_misses(value, _LABELS)}"
        )
    if limit is not None and not limit > 0:
        raise LseError(f"`limit` must be above 0; got {limit}.")
    if not frame[value].notna().all():
        raise LseError(
            f"No {value} here: the ablation was measured without a control. Measure it again with "
            "control='layer'."
        )


def _limit(values: pd.DataFrame | pd.Series) -> float:
    return max(float(np.abs(values.to_numpy()).max()), 1e-9)


def _empty(frame: pd.DataFrame) -> set[str]:
    return set(frame.loc[frame["n_neurons"] == 0, "ablated"])


def _frame_own(ax: Axes, *, rows: Sequence[str], columns: Sequence[str]) -> None:
    for row, code in enumerate(rows):
        corner = (columns.index(code), row)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="0.15", linewidth=0.8, zorder=3))


def _part_branches(ax: Axes, *, rows: Sequence[str], columns: Sequence[str]) -> None:
    for codes, line in ((rows, ax.axhline), (columns, ax.axvline)):
        for at, (before, after) in enumerate(itertools.pairwise(codes), start=1):
            if describe(before).branch != describe(after).branch:
                line(at, color="white", linewidth=1.6, zorder=2)


def _label(ax: Axes, *, rows: Sequence[str], columns: Sequence[str], empty: set[str]) -> None:
    names = [language_label(code) + (_NO_NEURONS if code in empty else "") for code in rows]
    ax.set_yticks(np.arange(len(rows)) + 0.5, names)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    ax.tick_params(length=0, pad=2)
    ax.set_ylabel("Neurons switched off")
    ax.set_xlabel("Loss measured in")
    ax.label_outer(remove_inner_ticks=True)
    ax.set_xlim(0, len(columns))
    ax.set_ylim(len(rows), 0)
    ax.set_aspect("equal")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _add_colorbar(axes: Sequence[Axes], mesh: QuadMesh, value: str) -> None:
    bar = axes[0].figure.colorbar(mesh, ax=list(axes), shrink=0.6, aspect=25, pad=0.01)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(nbins=5)
    if "relative" in value:
        bar.formatter = PercentFormatter(1)
    bar.set_label(_LABELS[value], fontsize=7)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.update_ticks()
