"""Draw which languages share neurons: a triangle of pairs, relatives side by side.

Source: paper, Figures 8 and 9 (counts); Jaccard and the ratio to chance are additions.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from lse_interp.analysis.overlap import OverlapMatrix
from lse_interp.core.errors import require_one_of
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import bare, blocks, in_order
from lse_interp.plotting.style import (
    drawing,
    language_label,
    points,
    sized,
)

__all__ = ["overlap_frame", "plot_overlap", "plot_overlap_panels"]

_SMALLEST_TEXT = 4.5
_LARGEST_INCHES = 14.0
_MOST_NAMED = 48
"""With more languages than this the families are named along the axes."""
_TITLES = {
    "intersection": "Shared neurons",
    "jaccard": "Jaccard index",
    "ratio": "Ratio to chance",
    "ratio_by_layer": "Ratio to chance",
}


def overlap_frame(overlap: OverlapMatrix) -> pd.DataFrame:
    """List every pair of languages once, and each language with itself.

    Columns: language, other, n_language, n_other, intersection, jaccard, expected, ratio,
    expected_by_layer, ratio_by_layer; expectations and ratios are NaN for a language and itself.
    Languages are in family order, `language` before `other`.
    """
    pairs = overlap.to_frame().drop(columns=["relation", "union"])
    sizes = overlap.sizes.numpy()
    own = pd.DataFrame(
        {
            "language": overlap.languages,
            "other": overlap.languages,
            "n_language": sizes,
            "n_other": sizes,
            "intersection": sizes,
            "jaccard": np.where(sizes > 0, 1.0, np.nan),
        }
    )
    both = own.reindex(columns=pairs.columns) if pairs.empty else pd.concat([own, pairs])
    return in_order(both, language=overlap.languages, other=overlap.languages)


@drawing("language", "other")
def plot_overlap(
    frame: pd.DataFrame, *, value: str = "intersection", ax: Axes | None = None
) -> Axes:
    """Draw one number per pair of languages as a triangle of cells.

    White lines part the branches of the family tree, named next to the diagonal. The diagonal is
    grey and out of the colour scale; for counts it holds each language's own number. Numbers are
    written where they fit. With more than 48 languages the families are named along the axes, and a
    language only if its code fits.

    Args:
        frame: what `overlap_frame` returns.
        value: `intersection`, `jaccard`, `ratio` or `ratio_by_layer`; ratios on a logarithmic
            scale around 1, blank where a pair shares nothing and less than one neuron is
            expected.
        ax: where to draw; None makes a new figure, large enough for all languages.

    Raises:
        LseError: another `value`.
    """
    require_one_of("value", value, _TITLES)
    codes = family_order(frame["language"].unique())
    if ax is None:
        side = float(np.clip(1.4 + 0.29 * len(codes), 3.4, _LARGEST_INCHES))
        _, ax = plt.subplots(figsize=sized(side, side))
    grid = _grid(frame, codes=codes, value=value)
    cell = _cell_points(ax, len(codes))
    mesh = _draw_cells(ax, grid, value=value, cell=cell)
    _write_numbers(ax, grid, mesh=mesh, value=value, cell=cell)
    room = _mark_branches(ax, codes, cell=cell)
    _label_axes(ax, codes, cell=cell)
    ax.set(xlim=(0, len(codes) + room), ylim=(len(codes), 0), aspect="equal")
    ax.set_title(_TITLES[value])
    _add_colorbar(ax, mesh)
    return ax


@drawing("language", "other")
def plot_overlap_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw counts large, and next to them Jaccard and the ratio to chance.

    Chance is what random sets with the same number of neurons per layer would share.

    Args:
        frame: what `overlap_frame` returns.

    Returns:
        The three Axes, all of one new figure.
    """
    n_languages = frame["language"].nunique()
    side = float(np.clip(1.4 + 0.27 * n_languages, 3.6, _LARGEST_INCHES))
    _, axes = plt.subplot_mosaic(
        [["intersection", "jaccard"], ["intersection", "ratio_by_layer"]],
        figsize=sized(1.62 * side, side),
        width_ratios=[1.72, 1],
    )
    for value, ax in axes.items():
        plot_overlap(frame, value=value, ax=ax)
        ax.set_anchor("NW")
    return list(axes.values())


def _grid(frame: pd.DataFrame, *, codes: Sequence[str], value: str) -> np.ndarray:
    """Return [row column] with the lower triangle filled, NaN elsewhere."""
    if value.startswith("ratio"):
        # If less than one neuron is expected, finding none says nothing about the ratio.
        silent = (frame["intersection"] == 0) & (frame[value.replace("ratio", "expected")] < 1)
        frame = frame.assign(**{value: frame[value].mask(silent)})
    table = frame.pivot(index="other", columns="language", values=value)
    return table.reindex(index=codes, columns=codes).to_numpy(dtype=float)


def _draw_cells(ax: Axes, grid: np.ndarray, *, value: str, cell: float) -> QuadMesh:
    """Colour the pairs, and the diagonal grey."""
    pairs = np.ma.masked_invalid(np.where(np.tri(len(grid), k=-1, dtype=bool), grid, np.nan))
    known, norm = pairs.compressed(), Normalize(0, 1e-9)
    if value.startswith("ratio"):
        furthest = max(known.max(initial=2), (1 / known[known > 0]).max(initial=2))
        norm = LogNorm(1 / furthest, furthest, clip=True)
    elif known.any():
        norm = Normalize(0, known.max())
    look: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.03 * cell if cell >= 6 else 0.0}
    cmap = sns.color_palette("vlag" if value.startswith("ratio") else "rocket_r", as_cmap=True)
    mesh = ax.pcolormesh(pairs, cmap=cmap, norm=norm, **look)
    ax.pcolormesh(np.ma.masked_equal(np.eye(len(grid)), 0), cmap=ListedColormap(["0.88"]), **look)
    return mesh


def _cell_points(ax: Axes, n: int) -> float:
    """Estimate the side of a cell before the layout is known; it comes out a little larger."""
    box = ax.get_window_extent()
    # The margins set aside before the layout are too wide for a large picture.
    share = 0.95 if n <= _MOST_NAMED else 1.1
    return share * min(box.width, box.height) / ax.figure.dpi * 72 / n


def _write_numbers(ax: Axes, grid: np.ndarray, *, mesh: QuadMesh, value: str, cell: float) -> None:
    """Write the number of each pair, and of counts also the languages' own, where it fits."""
    below = np.tri(len(grid), k=0 if value == "intersection" else -1, dtype=bool)
    texts = {(row, column): _text(grid[row, column], value) for row, column in np.argwhere(below)}
    longest = max(map(len, texts.values()), default=1)
    size = min(points(7.0), 0.88 * cell / (0.62 * longest), 0.7 * cell)
    # Thousands of numbers are read one by one or not at all.
    if size < (_SMALLEST_TEXT if len(grid) <= _MOST_NAMED else 5.5):
        return
    for (row, column), text in texts.items():
        number = grid[row, column]
        luminance = np.dot(mesh.to_rgba(number)[:3], (0.2126, 0.7152, 0.0722))
        dark = row != column and np.isfinite(number) and luminance < 0.45
        look: dict[str, Any] = {"fontsize": size, "color": "white" if dark else "0.2"}
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", **look)


def _text(number: float, value: str) -> str:
    if np.isnan(number):
        return "-"
    if value == "jaccard":
        return f"{number:.2f}".removeprefix("0")
    whole = value == "intersection" or number >= 10 or number == 0
    return f"{number:.0f}" if whole else f"{number:.1f}"


def _mark_branches(ax: Axes, codes: Sequence[str], *, cell: float) -> float:
    """Part and name the branches; return how many cells the names reach beyond the triangle."""
    size = min(points(6.5), 0.75 * cell)
    reach = 0.0
    for branch, start, stop in blocks(codes, "branch"):
        for xs, ys in (([0, stop], [stop, stop]), ([start, start], [start, len(codes)])):
            ax.plot(xs, ys, color="white", linewidth=0.11 * cell, solid_capstyle="butt")
        if size >= _SMALLEST_TEXT:
            place = (stop + 0.25, (start + stop) / 2)
            ax.text(
                *place, branch, ha="left", va="center", fontsize=size, color="0.4", style="italic"
            )
            reach = max(reach, stop + 0.5 + 0.6 * size * len(branch) / cell - len(codes))
    return reach


def _label_axes(ax: Axes, codes: Sequence[str], *, cell: float) -> None:
    size = min(0.8 * cell, points(7.0))
    middles = np.arange(len(codes)) + 0.5
    bare(ax)
    n_points = 0.0
    if size >= _SMALLEST_TEXT:
        # Names if there is room for them; codes in small panels and below the columns.
        names = [language_label(code) if cell >= points(11) else code for code in codes]
        ax.set_yticks(middles, names, fontsize=size)
        ax.set_xticks(middles, codes, fontsize=size, rotation=90)
        n_points = 0.65 * size * max(map(len, [*names, *codes]))
    else:
        ax.set_xticks([])
        ax.set_yticks([])
    if len(codes) > _MOST_NAMED:
        _name_families(ax, codes, cell=cell, n_points=n_points + 4)


def _name_families(ax: Axes, codes: Sequence[str], *, cell: float, n_points: float) -> None:
    """Name the families along both axes where a block is high enough; a line spans each block.

    Args:
        ax: where.
        codes: the languages in their order.
        cell: side of a cell in points.
        n_points: room to leave for the names of languages.
    """
    size = points(6.0)
    figure = ax.figure.figure
    left = offset_copy(ax.get_yaxis_transform(), figure, x=-n_points, units="points")
    below = offset_copy(ax.get_xaxis_transform(), figure, y=-n_points, units="points")
    line: dict[str, Any] = {"color": "0.55", "linewidth": 0.6, "clip_on": False}
    line["solid_capstyle"] = "butt"
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": size, "color": "0.3"}
    for name, start, stop in blocks(codes, "family"):
        inside = (start + 0.15, stop - 0.15)
        ax.plot((0, 0), inside, transform=left, **line)
        ax.plot(inside, (0, 0), transform=below, **line)
        if (stop - start) * cell >= size:
            middle = (start + stop) / 2
            place: dict[str, Any] = {"xy": (0, middle), "xycoords": left, "xytext": (-3, 0)}
            ax.annotate(name, **place, ha="right", va="center", **text)
            place = {"xy": (middle, 0), "xycoords": below, "xytext": (0, -3)}
            ax.annotate(name, **place, ha="center", va="top", rotation=90, **text)


def _add_colorbar(ax: Axes, mesh: QuadMesh) -> None:
    """Put the colour scale into the empty corner above the diagonal."""
    inset = ax.inset_axes((0.56, 0.93, 0.4, 0.025))
    look: dict[str, Any] = {"orientation": "horizontal", "ticks": MaxNLocator(nbins=4)}
    bar = ax.figure.colorbar(mesh, cax=inset, **look)
    bar.outline.set_visible(False)
    if isinstance(mesh.norm, LogNorm):
        assert mesh.norm.vmax is not None
        # A power of two on either side of 1.
        power = 2 ** int(np.log2(mesh.norm.vmax))
        bar.set_ticks([1 / power, 1, power], labels=[f"1/{power}", "1", f"{power}"])
        bar.minorticks_off()
    inset.tick_params(labelsize=points(6), length=2, pad=1)
