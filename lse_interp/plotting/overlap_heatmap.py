"""Draw which languages share neurons: a triangle of pairs, relatives side by side.

Source: paper, Figures 8 and 9 (counts); Jaccard and the ratio to chance are additions.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from lse_interp.analysis.overlap import OverlapMatrix
from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.languages import describe, family_order
from lse_interp.plotting.style import language_label, themed

__all__ = ["overlap_frame", "plot_overlap", "plot_overlap_panels"]

_SMALLEST_TEXT = 4.5
_LARGEST_INCHES = 14.0
_MOST_NAMED = 48
"""With more languages than this the families are named along the axes."""
_OWN_GREY = "0.88"


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
    place = {code: at for at, code in enumerate(overlap.languages)}
    both = own.reindex(columns=pairs.columns) if pairs.empty else pd.concat([own, pairs])
    return both.sort_values(
        ["language", "other"], key=lambda codes: codes.map(place), ignore_index=True
    )


@themed
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
    picture = _picture(value)
    codes = family_order(frame["language"].unique())
    if ax is None:
        side = float(np.clip(1.4 + 0.29 * len(codes), 3.4, _LARGEST_INCHES))
        _, ax = plt.subplots(figsize=(side, side))
    _draw_cells(ax, _grid(frame, codes=codes, value=value), codes=codes, picture=picture)
    return ax


@themed
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
        figsize=(1.62 * side, side),
        width_ratios=[1.72, 1],
    )
    for value, ax in axes.items():
        plot_overlap(frame, value=value, ax=ax)
        ax.set_anchor("NW")
    return list(axes.values())


@dataclasses.dataclass(frozen=True)
class _Picture:
    """How one kind of number is shown."""

    title: str
    cmap: Colormap
    norm: Callable[[np.ndarray], Normalize]
    text: Callable[[float], str]
    shows_own: bool = False


def _linear(values: np.ndarray) -> Normalize:
    return Normalize(0, max(values.max(initial=0), 1e-9))


def _around_one(values: np.ndarray) -> Normalize:
    inverse = 1 / values[values > 0]
    furthest = max(values.max(initial=2), inverse.max(initial=2))
    return LogNorm(1 / furthest, furthest, clip=True)


def _short_fraction(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _short_ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _picture(value: str) -> _Picture:
    counts, ratio = (
        sns.color_palette("rocket_r", as_cmap=True),
        sns.color_palette("vlag", as_cmap=True),
    )
    pictures = {
        "intersection": _Picture(
            "Shared neurons", counts, _linear, "{:.0f}".format, shows_own=True
        ),
        "jaccard": _Picture("Jaccard index", counts, _linear, _short_fraction),
        "ratio": _Picture("Ratio to chance", ratio, _around_one, _short_ratio),
        "ratio_by_layer": _Picture("Ratio to chance", ratio, _around_one, _short_ratio),
    }
    if value not in pictures:
        raise LseError(
            f"`value` must be one of {', '.join(pictures)}; got {value!r}. "
            f"{near_misses(value, pictures)}"
        )
    return pictures[value]


def _grid(frame: pd.DataFrame, *, codes: Sequence[str], value: str) -> np.ndarray:
    """Return [row column] with the lower triangle filled, NaN elsewhere."""
    if value.startswith("ratio"):
        # If less than one neuron is expected, finding none says nothing about the ratio.
        silent = (frame["intersection"] == 0) & (frame[value.replace("ratio", "expected")] < 1)
        frame = frame.assign(**{value: frame[value].mask(silent)})
    table = frame.pivot(index="other", columns="language", values=value)
    return table.reindex(index=codes, columns=codes).to_numpy(dtype=float)


def _draw_cells(ax: Axes, grid: np.ndarray, *, codes: Sequence[str], picture: _Picture) -> None:
    n = len(codes)
    pairs = np.tril(np.ones((n, n), dtype=bool), k=-1)
    known = grid[pairs & np.isfinite(grid)]
    norm = picture.norm(known)
    cell = _cell_points(ax, n)
    edges = np.arange(n + 1)
    for cells, cmap, scale in (
        (np.where(pairs, grid, np.nan), picture.cmap, norm),
        (
            np.where(np.eye(n, dtype=bool), 0.0, np.nan),
            ListedColormap([_OWN_GREY]),
            Normalize(0, 1),
        ),
    ):
        masked, line = np.ma.masked_invalid(cells), 0.03 * cell if cell >= 6 else 0.0
        ax.pcolormesh(
            edges, edges, masked, cmap=cmap, norm=scale, edgecolors="white", linewidth=line
        )
    written = pairs | np.eye(n, dtype=bool) if picture.shows_own else pairs
    _write_numbers(ax, grid, where=written, picture=picture, norm=norm, cell=cell)
    room = _mark_branches(ax, codes, cell=cell)
    _label_axes(ax, codes, cell=cell)
    ax.set_xlim(0, n + room)
    ax.set_ylim(n, 0)
    ax.set_aspect("equal")
    ax.set_title(picture.title)
    _add_colorbar(ax, picture, norm)


def _cell_points(ax: Axes, n: int) -> float:
    """Estimate the side of a cell before the layout is known; it comes out a little larger."""
    box = ax.get_window_extent()
    # The margins set aside before the layout are too wide for a large picture.
    share = 0.95 if n <= _MOST_NAMED else 1.1
    return share * min(box.width, box.height) / ax.figure.dpi * 72 / n


def _write_numbers(
    ax: Axes,
    grid: np.ndarray,
    *,
    where: np.ndarray,
    picture: _Picture,
    norm: Normalize,
    cell: float,
) -> None:
    texts = {
        (row, column): picture.text(grid[row, column]) if np.isfinite(grid[row, column]) else "-"
        for row, column in np.argwhere(where)
    }
    longest = max(map(len, texts.values()), default=1)
    size = min(7.0, 0.88 * cell / (0.62 * longest), 0.7 * cell)
    # Thousands of numbers are read one by one or not at all.
    if size < (_SMALLEST_TEXT if len(grid) <= _MOST_NAMED else 5.5):
        return
    for (row, column), text in texts.items():
        value = grid[row, column]
        filled = row != column and np.isfinite(value)
        dark = filled and _luminance(picture.cmap(norm(value))) < 0.45
        ax.text(
            column + 0.5,
            row + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "0.2",
        )


def _luminance(rgba: Sequence[float]) -> float:
    return float(np.dot(rgba[:3], (0.2126, 0.7152, 0.0722)))


def _mark_branches(ax: Axes, codes: Sequence[str], *, cell: float) -> float:
    """Part and name the branches; return how many cells the names reach beyond the triangle."""
    size = min(6.5, 0.75 * cell)
    reach = 0.0
    for branch, start, stop in _blocks(codes, "branch"):
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
    size = min(0.8 * cell, 7.0)
    middles = np.arange(len(codes)) + 0.5
    ax.tick_params(length=0, pad=2)
    n_points = 0.0
    if size >= _SMALLEST_TEXT:
        # Names if there is room for them; codes in small panels and below the columns.
        names = [language_label(code) if cell >= 11 else code for code in codes]
        ax.set_yticks(middles, names, fontsize=size)
        ax.set_xticks(middles, codes, fontsize=size, rotation=90)
        n_points = 0.65 * size * max(map(len, [*names, *codes]))
    else:
        ax.set_xticks([])
        ax.set_yticks([])
    if len(codes) > _MOST_NAMED:
        _name_families(ax, codes, cell=cell, n_points=n_points + 4)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _name_families(ax: Axes, codes: Sequence[str], *, cell: float, n_points: float) -> None:
    """Name the families along both axes where a block is high enough; a line spans each block.

    Args:
        ax: where.
        codes: the languages in their order.
        cell: side of a cell in points.
        n_points: room to leave for the names of languages.
    """
    size = 6.0
    figure = ax.figure.figure
    left = offset_copy(ax.get_yaxis_transform(), figure, x=-n_points, units="points")
    below = offset_copy(ax.get_xaxis_transform(), figure, y=-n_points, units="points")
    line: dict[str, Any] = {"color": "0.55", "linewidth": 0.6, "clip_on": False}
    line["solid_capstyle"] = "butt"
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": size, "color": "0.3"}
    for name, start, stop in _blocks(codes, "family"):
        inside = (start + 0.15, stop - 0.15)
        ax.plot((0, 0), inside, transform=left, **line)
        ax.plot(inside, (0, 0), transform=below, **line)
        if (stop - start) * cell >= size:
            middle = (start + stop) / 2
            place: dict[str, Any] = {"xy": (0, middle), "xycoords": left, "xytext": (-3, 0)}
            ax.annotate(name, **place, ha="right", va="center", **text)
            place = {"xy": (middle, 0), "xycoords": below, "xytext": (0, -3)}
            ax.annotate(name, **place, ha="center", va="top", rotation=90, **text)


def _blocks(codes: Sequence[str], group: str) -> list[tuple[str, int, int]]:
    """Cut codes into runs of one branch or family: its name, where it starts and where it stops."""
    names = [getattr(describe(code), group) for code in codes]
    blocks, start = [], 0
    for name, members in itertools.groupby(names):
        stop = start + len(list(members))
        blocks.append((name, start, stop))
        start = stop
    return blocks


def _add_colorbar(ax: Axes, picture: _Picture, norm: Normalize) -> None:
    """Put the colour scale into the empty corner above the diagonal."""
    inset = ax.inset_axes((0.56, 0.93, 0.4, 0.025))
    bar = ax.figure.colorbar(
        plt.cm.ScalarMappable(norm=norm, cmap=picture.cmap), cax=inset, orientation="horizontal"
    )
    bar.outline.set_visible(False)
    if isinstance(norm, LogNorm):
        assert norm.vmax is not None
        steps = _log_steps(norm.vmax)
        bar.locator, bar.minorlocator = FixedLocator(list(steps)), NullLocator()
        bar.formatter = FuncFormatter(lambda value, _: steps.get(value, ""))
    else:
        bar.locator = MaxNLocator(nbins=4)
    bar.update_ticks()
    inset.tick_params(labelsize=6, length=2, pad=1)


def _log_steps(furthest: float) -> dict[float, str]:
    """Choose a power of two on either side of 1, with labels.

    >>> _log_steps(20.0)
    {0.0625: '1/16', 1.0: '1', 16.0: '16'}
    """
    power = 2 ** int(np.log2(furthest))
    return {1 / power: f"1/{power}", 1.0: "1", float(power): f"{power}"}
