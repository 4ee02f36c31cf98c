"""Tables 27 to 38: cosine of parallel sentences averaged over the layers, one table per language.

    python -m analyses tables27_38
    python -m analyses tables27_38 --source published
    python -m analyses tables27_38 runs/my-model/alignment

The paper prints raw cosines. Of artefacts of `python -m lse_interp.alignment`, the centred cosine
leads and the raw one is in brackets.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analyses import published
from analyses.paper.transcribe import COLUMNS
from analyses.paper_tables import LEGEND, csv_of, ranked, scores_markdown
from analyses.registry import FIGURES, Figure, Request
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError
from lse_interp.core.languages import family_order
from lse_interp.plotting.alignment_curves import alignment_frame, layer_average_frame
from lse_interp.plotting.alignment_report import (
    ABOUT_TABLES,
    alignment_table,
    measured_at,
    table_markdown,
)
from lse_interp.plotting.picture import COMMAND, Page
from lse_interp.plotting.style import language_label

_TITLE = "# Alignment, averaged over the layers\n\n"


def draw(parts: Sequence[AlignmentCurves], request: Request) -> Iterator[Page]:
    """Tabulate what was measured, one table per language.

    Raises:
        ArtifactError: only one language, in a run; its table is written with Figure 7.
    """
    if len(parts) < 2 and not request.paths:
        raise ArtifactError(
            f"The run has alignment in {parts[0].language} alone, whose table is written with "
            "Figure 7. `python -m lse_interp.alignment --lang isl` measures another language."
        )
    order = family_order(curves.language for curves in parts)
    parts = sorted(parts, key=lambda curves: order.index(curves.language))
    averages = [layer_average_frame(alignment_frame(curves)) for curves in parts]
    sections = [
        f"## {language_label(curves.language)}\n\n"
        f"{table_markdown(alignment_table(average), language=curves.language)}"
        for curves, average in zip(parts, averages, strict=True)
    ]
    first, path = parts[0], _path(request)
    # A table is named after its model: runs/<model>/alignment.
    name = path.parent.name if path.name == "alignment" else path.stem
    yield Page(
        name=f"tables27_38_{name}",
        frame=csv_of(pd.concat(averages, ignore_index=True)),
        markdown=(
            f"{_TITLE}{ABOUT_TABLES} Source: {path}; {measured_at(first)}. `{COMMAND}`\n\n"
            + "\n".join(sections)
        ),
    )


def draw_published() -> Iterator[Page]:
    """Tabulate the published cosines, with their means."""
    frame = published.alignment_averages()
    cells = pd.concat([_cells(frame, language=code) for code in dict.fromkeys(frame["language"])])
    over_all = frame.groupby(["language", "model"], sort=False)["cosine"].mean().reset_index()
    summary = _tabulated(over_all, label="language", language="all")
    cells = ranked(pd.concat([cells, summary], ignore_index=True), by=("language", "label"))
    tables = dict(zip(frame["language"], frame["table"], strict=True)) | {"all": 0}
    sections = []
    for code, part in cells.groupby("language", sort=False):
        name = language_label(str(code))
        title = f"{name} (Table {tables[code]})" if code != "all" else "All languages (Figure 7c)"
        sections.append(f"## {title}\n\n{scores_markdown(part, first='With')}")
    page = (
        f"{_TITLE}Raw cosine of sentences with their translations in %. {LEGEND} Means "
        "are recomputed; the paper prints that of the target subnetwork over all languages, 90.47. "
        f"Source: published numbers: paper, Tables 27 to 38 ({published.MODELS['llama']}, "
        f"FLORES-200). `{COMMAND}`\n\n" + "\n".join(sections)
    )
    yield Page(name="tables27_38_published", frame=csv_of(cells), markdown=page)


def _cells(frame: pd.DataFrame, *, language: str) -> pd.DataFrame:
    return _tabulated(frame[frame["language"] == language], label="against", language=language)


def _tabulated(frame: pd.DataFrame, *, label: str, language: str) -> pd.DataFrame:
    """Make cells of cosines, with their mean."""
    cells = pd.DataFrame(
        {
            "label": frame[label].map(language_label),
            "method": frame["model"].map(COLUMNS),
            "score": frame["cosine"],
            "n": pd.Series(pd.NA, index=frame.index, dtype="Int64"),
            "is_average": False,
        }
    )
    means = cells.groupby("method", sort=False)["score"].agg(score="mean", n="size").reset_index()
    means = means.assign(label="Mean", is_average=True).astype({"n": "Int64"})
    cells = pd.concat([cells, means[list(cells)]], ignore_index=True)
    return cells.assign(
        language=language, group="", unit="%", stderr=float("nan"), recomputed=float("nan")
    )


def _path(request: Request) -> Path:
    return (*request.paths, RunPaths(request.root, request.model).alignment("").parent)[0]


FIGURES.register("tables27_38")(
    Figure(
        "Tables 27-38",
        "cosine averaged over layers",
        draw,
        needs="alignment_curves",
        published=draw_published,
        stems=("tables27", "table_alignment"),
        inline=False,
    )
)
