"""Draw which languages share neurons: a triangle of pairs, relatives side by side.

Source: paper, Figures 8 and 9 (counts); Jaccard and the ratio to chance are additions.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.languages import LANGUAGES, family_order
from lse_interp.overlap import OverlapMatrix
from lse_interp.plotting.style import language_label, themed

__all__ = ["overlap_frame", "plot_overlap", "plot_overlap_panels"]

_PAIR_COLUMNS = [
    "n_language",
    "n_other",
    "intersection",
    "jaccard",
    "expected",
    "ratio",
    "expected_by_layer",
    "ratio_by_layer",
]
_SMALLEST_TEXT = 4.5
_OWN_GREY = "0.88"


def overlap_frame(overlap: OverlapMatrix) -> pd.DataFrame:
    """List every pair of languages once, and each language with itself.

    Columns: language, other, n_language, n_other, intersection, jaccard, expected, ratio,
    expected_by_layer, ratio_by_layer; expectations and ratios are NaN for a language and itself.
    Languages are in family order, `language` before `other`.
    """
    pairs = overlap.to_frame()[["language", "other", *_PAIR_COLUMNS]]
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
    both = pairs if own.empty else pd.concat([own, pairs], ignore_index=True)
    order = both[["language", "other"]].replace(place).apply(tuple, axis=1).argsort()
    return both.iloc[order].reset_index(drop=True)


@themed
def plot_overlap(
    frame: pd.DataFrame, *, value: str = "intersection", ax: Axes | None = None
) -> Axes:
    """Draw one number per pair of languages as a triangle of cells.

    White lines part the branches of the family tree, named beside the diagonal. The diagonal is
    grey and out of the colour scale; for counts it holds each language's own number. Numbers are
    written where they fit.

    Args:
        frame: what `overlap_frame` returns.
        value: `intersection`, `jaccard`, `ratio` or `ratio_by_layer`; ratios on a logarithmic
            scale around 1.
        ax: where to draw; a new figure, large enough for all languages, where None.

    Raises:
        LseError: another `value`.
    """
    picture = _picture(value)
    codes = family_order(frame["language"].unique())
    if ax is None:
        side = float(np.clip(1.4 + 0.29 * len(codes), 3.4, 12.0))
        _, ax = plt.subplots(figsize=(side, side))
    _draw_cells(ax, _grid(frame, codes=codes, value=value), codes=codes, picture=picture)
    return ax


@themed
def plot_overlap_panels(frame: pd.DataFrame) -> list[Axes]:
    """Draw counts large, and beside them Jaccard and the ratio to chance.

    Chance is what random sets with the same number of neurons per layer would share.

    Args:
        frame: what `overlap_frame` returns.

    Returns:
        The three Axes, all of one new figure.
    """
    n_languages = frame["language"].nunique()
    side = float(np.clip(1.4 + 0.27 * n_languages, 3.6, 12.0))
    figure, axes = plt.subplot_mosaic(
        [["intersection", "jaccard"], ["intersection", "ratio_by_layer"]],
        figsize=(1.62 * side, side),
        width_ratios=[1.72, 1],
    )
    # Cells are sized when drawn; the layout decides how much room they have.
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return [plot_overlap(frame, value=value, ax=ax) for value, ax in axes.items()]
