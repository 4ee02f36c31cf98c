"""The report on alignment: the curves, their layer average, and the table of both.

Source: paper, Figure 7, Tables 27 to 38. The gap next to each cosine is an addition.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.core.errors import LseError
from lse_interp.plotting.alignment_curves import (
    alignment_frame,
    layer_average_frame,
    plot_alignment,
    plot_layer_average_panels,
)
from lse_interp.plotting.picture import COMMAND, Page, Picture
from lse_interp.plotting.style import language_label

__all__ = ["alignment_pictures", "alignment_table", "table_markdown", "write_alignment"]

_VALUES = ("cosine", "gap", "retrieval")


def alignment_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Set models side by side: a row per language compared with, and their mean.

    Args:
        frame: what `layer_average_frame` returns, of one language.

    Returns:
        Percentages, with `against` as index (the last is `mean`) and columns (model, value);
        values are cosine, gap and retrieval.

    Raises:
        LseError: several languages.

    Source: paper, Tables 27 to 38, which hold the cosine.
    """
    languages = frame["language"].unique()
    if len(languages) != 1:
        raise LseError(
            f"One table is about one language; the frame holds {', '.join(languages)}. Select one."
        )
    models = list(dict.fromkeys(frame["model"]))
    wide = frame.pivot(index="against", columns="model", values=list(_VALUES)).swaplevel(axis=1)
    columns = pd.MultiIndex.from_product([models, _VALUES], names=["model", "value"])
    table = wide.loc[list(dict.fromkeys(frame["against"])), columns].set_axis(columns, axis=1)
    table.loc["mean"] = table.mean()
    return table


def table_markdown(table: pd.DataFrame, *, language: str) -> str:
    """Write `alignment_table` as markdown: cosine, and the gap in brackets."""
    models: Sequence[str] = list(table.columns.unique("model"))
    lines = [
        [f"{language_label(language)} with", *models],
        ["---", *["---:"] * len(models)],
    ]
    for against, row in table.iterrows():
        cells = [f"{row[model, 'cosine']:.2f} ({_signed(row[model, 'gap'])})" for model in models]
        lines.append(["Mean" if against == "mean" else language_label(str(against)), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
    sentences = f"{f'{text}, ' if text else ''}{curves.n_sentences} sentences"
    source = (
        f"{', '.join(curves.models)} of {curves.infos[0].name}; {sentences}; {curves.site}, "
        f"{curves.pooling} pooling"
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
            "hidden where the two agree. Form of Figure 7; intervals and control are additions."
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
                "Left, cosine with translations; right, how far it lies above that of sentences "
                "that are no translations of each other. One dot per language compared with; the "
                "bar is their mean. Form of Figure 7c; the right half is an addition."
            ),
            **about,
        )
    table = alignment_table(averages)
    flat = table.set_axis([f"{model} {value}" for model, value in table.columns], axis=1)
    yield Page(
        name=f"table_alignment_{curves.language}",
        frame=flat.reset_index(),
        markdown=(
            f"{table_markdown(table, language=curves.language)}\n"
            f"Cosine of sentences with their translations in percent, averaged over "
            f"{len(curves.layers)} layers; in brackets the gap, which is the cosine less that of "
            f"sentences that are no translations of each other. Form of Tables 27 to 38. "
            f"Source: {source}. `{COMMAND}`\n"
        ),
        model=curves.infos[0],
    )


def _signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"
