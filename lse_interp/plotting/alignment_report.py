"""The report on alignment: the curves, their layer average, and the table of both.

Source: paper, Figure 7, Tables 27 to 38, which hold raw cosines. Centred ones are an addition.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.analysis.cosine import STATISTICS, VECTORS
from lse_interp.core.errors import LseError
from lse_interp.plotting.alignment_curves import (
    alignment_frame,
    layer_average_frame,
    plot_alignment,
    plot_layer_average_panels,
)
from lse_interp.plotting.picture import COMMAND, Page, Picture, markdown_table
from lse_interp.plotting.style import language_label

__all__ = [
    "ABOUT_TABLES",
    "alignment_pictures",
    "alignment_table",
    "measured_at",
    "table_markdown",
    "write_alignment",
]

ABOUT_TABLES = (
    "Cosine of sentences with their translations in percent, averaged over the layers, after the "
    "mean of each language is taken out; in brackets the raw cosine, the measure of Tables 27 to "
    "38. Below, means of all measures: shuffled is the cosine of sentences that are no "
    "translations of each other, gap the cosine less that, retrieval the share of sentences whose "
    "translation is nearest."
)
"""What a table in the form of Tables 27 to 38 says."""


def alignment_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Set models side by side: a row per language compared with, and their mean.

    Args:
        frame: what `layer_average_frame` returns, of one language.

    Returns:
        Percentages, with `against` as index (the last is `mean`) and columns (model, vectors,
        statistic).

    Raises:
        LseError: several languages.

    Source: paper, Tables 27 to 38, which hold the raw cosine.
    """
    languages = frame["language"].unique()
    if len(languages) != 1:
        raise LseError(
            f"One table is about one language; the frame holds {', '.join(languages)}. Select one."
        )
    models = list(dict.fromkeys(frame["model"]))
    order = pd.MultiIndex.from_product([models, VECTORS, STATISTICS])
    wide = frame.pivot(index="against", columns=["model", "vectors"], values=list(STATISTICS))
    table = wide.reorder_levels([1, 2, 0], axis=1)[order]
    table = table.loc[list(dict.fromkeys(frame["against"]))]
    table.loc["mean"] = table.mean()
    return table.set_axis(order.set_names(["model", "vectors", "statistic"]), axis=1)


def table_markdown(table: pd.DataFrame, *, language: str) -> str:
    """Write `alignment_table` as markdown: centred and raw cosine of each language, all means."""
    models: Sequence[str] = list(table.columns.unique("model"))
    rows = [[f"{language_label(language)} with", *models]]
    for against, row in table.iterrows():
        cells = [
            f"{_tidy(row[model, 'centred', 'cosine'])} ({_tidy(row[model, 'raw', 'cosine'])})"
            for model in models
        ]
        rows.append(["Mean" if against == "mean" else language_label(str(against)), *cells])
    means = [["Mean of", *models]]
    for vectors in VECTORS:
        for name in STATISTICS:
            cells = [_tidy(table.loc["mean", (model, vectors, name)]) for model in models]
            means.append([f"{vectors} {name}", *cells])
    return "\n".join(markdown_table(head, lines) for head, *lines in (rows, means))


def measured_at(curves: AlignmentCurves) -> str:
    """Say where and on how much text curves were measured."""
    return (
        f"{curves.n_sentences} sentences; {curves.site}, {curves.pooling} pooling, sinks "
        f"{'left out' if curves.sinks == 'drop' else 'kept'}"
    )


def write_alignment(
    curves: AlignmentCurves, folder: Path, *, text: str | None = None, command: str
) -> list[Path]:
    """Write what `alignment_pictures` draws, and return the files.

    Args:
        curves: the measured curves.
        folder: where to write.
        text: the sentences, in a word or two.
        command: the command line that writes the files.
    """
    return [
        path
        for drawn in alignment_pictures(curves, text=text)
        for path in drawn.save(folder, command=command)
    ]


def alignment_pictures(
    curves: AlignmentCurves, *, text: str | None = None
) -> Iterator[Picture | Page]:
    """Draw the curves and the table; with several models, also the layer average.

    Args:
        curves: the measured curves.
        text: the sentences, in a word or two.
    """
    name, frame = language_label(curves.language), alignment_frame(curves)
    averages = layer_average_frame(frame)
    source = (
        f"{', '.join(curves.models)} of {curves.infos[0].name}; "
        f"{f'{text}, ' if text else ''}{measured_at(curves)}"
    )
    about: dict[str, Any] = {"source": source, "model": curves.infos[0]}
    yield Picture(
        name=f"fig07_alignment_{curves.language}",
        axes=plot_alignment(frame),
        frame=frame,
        title=f"{name} sentences and their translations, layer by layer",
        caption=(
            f"Mean cosine of {name} sentences with their translations, with 95 % bootstrap "
            "intervals; faint, that of sentences that are no translations of each other, which is "
            "hidden where the two agree. Above, after the mean of each language is taken out; "
            "below, raw cosines, as in Figure 7. All but the raw cosine is an addition."
        ),
        **about,
    )
    if len(curves.models) > 1:
        yield Picture(
            name=f"fig07c_layer_average_{curves.language}",
            axes=plot_layer_average_panels(averages)[0],
            frame=averages,
            title=f"{name} sentences and their translations, averaged over the layers",
            caption=(
                "Cosine of sentences with their translations: left, after the mean of each "
                "language is taken out; right, raw, as in Figure 7c. One dot per language compared "
                "with; the bar is their mean. The left half is an addition."
            ),
            **about,
        )
    table = alignment_table(averages)
    about_tables = f"{ABOUT_TABLES} {curves.caution}".rstrip()
    flat = table.set_axis(table.columns.map(" ".join), axis=1)
    yield Page(
        name=f"table_alignment_{curves.language}",
        frame=flat.reset_index(),
        markdown=(
            f"{table_markdown(table, language=curves.language)}\n{about_tables} "
            f"Source: {source}. `{COMMAND}`\n"
        ),
        model=curves.infos[0],
    )


def _tidy(percent: float) -> str:
    """Write two digits, without the sign of a zero."""
    return f"{round(percent, 2) + 0.0:.2f}"
