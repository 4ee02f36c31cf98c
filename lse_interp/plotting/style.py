"""One look for every figure: its theme, its hues, and how it is saved.

Languages of one branch have related hues and different dashes. Among the 21 languages of the
paper, any two colours differ by at least 25 in CIELAB (Delta E 1976), and any two languages with
the same dash by at least 30 under normal, protanopic and deuteranopic vision.
"""

import contextlib
import functools
import inspect
import re
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure, SubFigure

from lse_interp.artifacts.atomic import write_together
from lse_interp.core.cli import ModelArgs, quiet
from lse_interp.core.errors import LanguageError, LseError, near_misses
from lse_interp.core.languages import describe, find_language
from lse_interp.models.info import ModelInfo
from lse_interp.training.methods import Look, method_looks

__all__ = [
    "COLUMN_INCHES",
    "LANGUAGE_STYLES",
    "PAGE_INCHES",
    "PROJECTION_COLORS",
    "drawing",
    "figure_stem",
    "language_color",
    "language_label",
    "language_line",
    "method_color",
    "method_label",
    "method_line",
    "method_order",
    "points",
    "save_figure",
    "sized",
    "theme",
]

_T = TypeVar("_T")

COLUMN_INCHES = 3.4
"""Width of one column of a two-column paper."""
PAGE_INCHES = 7.0
"""Width of its page."""

PROJECTION_COLORS: Mapping[str, str] = {"gate": "#0072b2", "up": "#e69f00", "down": "#cc3377"}
"""One hue per projection of the MLP."""

_DASHES = ("-", (0, (4, 1.5)), (0, (5, 1.2, 1, 1.2)), (0, (1, 1.1)), (0, (2, 1)))

LANGUAGE_STYLES: Mapping[str, tuple[str, int]] = {
    "afr": ("#00406b", 2),
    "deu": ("#0c69c1", 3),
    "eng": ("#93a3cd", 1),
    "isl": ("#16acfc", 0),
    "fra": ("#204520", 1),
    "ita": ("#78b073", 2),
    "spa": ("#18bb68", 3),
    "mkd": ("#7b3a43", 3),
    "rus": ("#b50015", 2),
    "slk": ("#fc6f7c", 1),
    "slv": ("#ce968b", 0),
    "lit": ("#873400", 3),
    "lvs": ("#ed5b09", 0),
    "arb": ("#8d7c00", 1),
    "mlt": ("#dc9302", 2),
    "cym": ("#6cb611", 3),
    "ekk": ("#63afb2", 3),
    "kat": ("#7d45b5", 1),
    "npi": ("#ff5ee4", 2),
    "jpn": ("#686868", 2),
    "zho": ("#262626", 0),
}
"""Language -> colour and position of its dash; other languages get theirs from their code."""

_THEME: dict[Any, Any] = {
    "axes.edgecolor": "0.3",
    "axes.grid": True,
    "axes.labelcolor": "0.15",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "figure.titleweight": "bold",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": "0.9",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "text.color": "0.15",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}
_FONT_SIZE = 8.0
_POINTS = {
    "axes.labelsize": 8.0,
    "axes.titlepad": 6.0,
    "axes.titlesize": 8.5,
    "figure.titlesize": 9.0,
    "font.size": _FONT_SIZE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.0,
    "lines.linewidth": 1.5,
    "xtick.labelsize": 7.0,
    "xtick.major.size": 2.5,
    "ytick.labelsize": 7.0,
    "ytick.major.size": 2.5,
}
"""Sizes where text has `_FONT_SIZE` points; see `points`."""
_GROUP_COLORS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#a6761d", "#66a61e", "#e6ab02")
_groups: dict[str, int] = {}


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Give figures the look of this package.

    All sizes follow `font.size`; matplotlib's default counts as not set. Settings outside the
    context stay as they are.
    """
    sizes = {name: points(size) for name, size in _POINTS.items()}
    with mpl.rc_context(dict(sns.axes_style("ticks")) | _THEME | sizes):
        yield
        interactive = mpl.is_interactive()
    # The first figure loads the backend. Jupyter's backend switches interactive mode on; without it
    # no later figure would be shown.
    mpl.interactive(interactive)


def points(size: float | int) -> float:
    """Return a size in points, given what it is where text has 8 points, the usual size."""
    found = mpl.rcParams["font.size"]
    return float(size if found == mpl.rcParamsDefault["font.size"] else size * found / _FONT_SIZE)


def sized(width: float | int, height: float | int) -> tuple[float, float]:
    """Return the inches of a figure, which grows with its text."""
    return points(width), points(height)


def drawing(
    *columns: str, title_pad: float | int = 6
) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Decorate a function that draws a frame: it runs inside `theme` and takes `title=`.

    Args:
        columns: Columns of the frame that hold languages; with any, it takes `languages=` too.
        title_pad: Points between a title and the Axes.
    """

    def decorate(function: Callable[..., _T]) -> Callable[..., _T]:
        @functools.wraps(function)
        def draw(frame: pd.DataFrame, *, title: str | None = None, **options: Any) -> _T:
            languages = options.pop("languages", None) if columns else None
            with theme():
                drawn = function(_only(frame, columns, languages), **options)
                if title is not None:
                    _set_title(drawn, title, pad=title_pad, is_new=options.get("ax") is None)
            return drawn

        about = {"title": "str | None"} | ({"languages": "Sequence[str] | None"} if columns else {})
        own = inspect.signature(function)
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in about.items()
        ]
        draw.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*own.parameters.values(), *more]
        )
        start, _, rest = (function.__doc__ or "").partition("    Args:\n")
        args, *others = rest.split("\n\n")
        lines = [args.rstrip(), "        title: replaces the title, or heads several panels."]
        if columns:
            lines.append("        languages: draws these alone, in any spelling; None draws all.")
        draw.__doc__ = start + "    Args:\n" + "\n\n".join(["\n".join(lines), *others])
        return draw

    return decorate


def language_label(code: str) -> str:
    """Return the English name of a language; a label that is no language stays as it is.

    >>> language_label("mlt"), language_label("qaa")
    ('Maltese', 'qaa')
    """
    return describe(code).name


def language_color(code: str) -> str:
    """Return the colour of a language, as hex; the same in every figure.

    A code outside `LANGUAGE_STYLES` gets a hue computed from its letters, so that it does not
    depend on which other languages are drawn. A label that is no language (`random`, `core`) gets
    the next free colour of groups, and keeps it in this session.
    """
    return _style(code)[0]


def language_line(code: str) -> dict[str, Any]:
    """Return matplotlib's `color` and `linestyle` of a language."""
    color, dash = _style(code)
    return {"color": color, "linestyle": _DASHES[dash]}


def method_label(method: str) -> str:
    """Return how a fine-tuning method reads in a figure.

    Raises:
        LseError: There is no such method.

    >>> method_label("random:layer")
    'Random (layer)'
    """
    return _method(method).label


def method_color(method: str) -> str:
    """Return the colour of a fine-tuning method, as hex; the same in every figure.

    Raises:
        LseError: There is no such method.
    """
    return _method(method).color


def method_line(method: str) -> dict[str, Any]:
    """Return matplotlib's `color` and `linestyle` of a fine-tuning method.

    Raises:
        LseError: There is no such method.
    """
    look = _method(method)
    return {"color": look.color, "linestyle": _DASHES[look.dash]}


def method_order(methods: Iterable[str]) -> list[str]:
    """Sort fine-tuning methods, each once, into the order of every figure.

    Raises:
        LseError: There is no such method.

    >>> method_order(["full", "target", "full"])
    ['target', 'full']
    """
    found = set(methods)
    for method in sorted(found):
        _method(method)
    return [method for method in method_looks() if method in found]


def figure_stem(folder: Path, name: str, model: ModelInfo | None) -> Path:
    """Name a figure; the name of its model follows unless it has none or the default model."""
    if model is None or model.name == ModelArgs.model:
        return folder / name
    label = re.sub(r"[^\w.-]+", "-", Path(model.name).name.lower())
    return folder / f"{name}_{label}"


def save_figure(
    figure: Figure | SubFigure,
    stem: Path,
    *,
    frame: pd.DataFrame,
    source: str,
    title: str = "",
    caption: str = "",
    command: str = "",
    close: bool = True,
) -> list[Path]:
    """Write a figure as png and pdf, and its numbers as csv: all three, or on failure none.

    The source is printed small under the figure. The png carries title, caption, source and
    command as text chunks, from which the gallery is made. Equal figures give equal bytes.

    Args:
        figure: the figure; the source line is added only to the saved files.
        stem: path without suffix.
        frame: every number drawn.
        source: source of the numbers: model, data, settings.
        title: one line for the gallery.
        caption: a sentence or two for the gallery.
        command: the command line that redraws the figure.
        close: release the figure afterwards; False keeps it for a notebook to show.

    Returns:
        The png, the pdf and the csv.
    """
    figure, stem = figure.figure, Path(stem)
    # Not `with_suffix`, which would cut the name of a model such as llama-3.1.
    png, pdf, csv = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "pdf", "csv"))
    about: dict[str, str | None] = {"Title": title or stem.name, "Description": caption}
    about |= {"Source": source, "Comment": command, "Software": None}
    undated = {"Title": title or stem.name, "CreationDate": None, "Creator": None, "Producer": None}
    line = _source_line(figure, source)
    try:
        # Embedding fonts into a pdf logs every glyph table.
        with theme(), quiet("fontTools"):
            fit: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.05}
            write_together(
                {
                    png: lambda path: figure.savefig(path, dpi=200, metadata=about, **fit),
                    pdf: lambda path: figure.savefig(path, metadata=undated, **fit),
                    csv: lambda path: frame.to_csv(path, index=False),
                }
            )
    finally:
        line.remove()
    if close:
        plt.close(figure)
    return [png, pdf, csv]


def _only(
    frame: pd.DataFrame, columns: Sequence[str], languages: Sequence[str] | None
) -> pd.DataFrame:
    """Keep the rows of some languages."""
    if languages is None:
        return frame
    codes = [describe(language).code for language in languages]
    known = {code for column in columns for code in frame[column]}
    for code in codes:
        if code not in known:
            raise LanguageError(f"There is no {code} to draw. {near_misses(code, known)}")
    return frame[frame[list(columns)].isin(codes).all(axis=1)]


def _set_title(drawn: Any, title: str, *, pad: float | int, is_new: bool) -> None:
    ax = drawn[0] if isinstance(drawn, list) else drawn
    panels = [one for one in ax.figure.axes if one.get_subplotspec() is not None]
    if is_new and len(panels) > 1:
        _head(ax.figure.figure, title)
    else:
        ax.set_title(title, pad=points(pad))


def _head(figure: Figure, title: str) -> None:
    """Write a title above everything else; the figure grows by its height."""
    height = figure.get_figheight()
    figure.set_figheight(height + points(18) / 72)
    top = height / figure.get_figheight()
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, top))
    for legend in figure.legends:
        # Constrained layout leaves room for a legend above the panels, and knows no other place.
        if legend._outside_loc == "upper":  # type: ignore[attr-defined]
            legend.borderaxespad += points(18) / legend._fontsize  # type: ignore[attr-defined]
    figure.suptitle(title, x=0.01, y=(1 + top) / 2, ha="left", va="center").set_in_layout(False)


def _style(code: str) -> tuple[str, int]:
    if find_language(code) is None:
        place = _groups.setdefault(code, len(_groups))
        return _GROUP_COLORS[place % len(_GROUP_COLORS)], len(_DASHES) - 1
    code = describe(code).code
    if code in LANGUAGE_STYLES:
        return LANGUAGE_STYLES[code]
    letters = zlib.crc32(code.encode())
    color = sns.husl_palette(360, s=0.75, l=0.55)[letters % 360]
    return mpl.colors.to_hex(color), letters // 360 % (len(_DASHES) - 1)


def _method(method: str) -> Look:
    looks = method_looks()
    if method not in looks:
        raise LseError(f"There is no fine-tuning method {method!r}. {near_misses(method, looks)}")
    return looks[method]


def _source_line(figure: Figure, source: str) -> Any:
    """Print the source under the figure; a tight bounding box makes room for it."""
    size = points(5.5)
    n_characters = max(20, int(figure.get_figwidth() * 72 / (0.62 * size)))
    text = "\n".join(textwrap.wrap(f"Source: {source}", n_characters))
    return figure.text(
        0.995, -0.01, text, ha="right", va="top", fontsize=size, color="0.45", linespacing=1.3
    )
