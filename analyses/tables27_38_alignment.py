"""Tables 27 to 38: cosine of parallel sentences averaged over the layers, one table per language.

    python -m analyses.tables27_38_alignment --source published
    python -m analyses.tables27_38_alignment --source embedded
    python -m analyses.tables27_38_alignment --source runs/my-model/alignment

Artefacts of `python -m lse_interp.alignment` also hold the gap to sentences that are no
translations of each other, which stands in brackets.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses import published
from analyses.paper.transcribe import COLUMNS
from analyses.paper_tables import LEGEND, ranked, scores_markdown, write_table
from analyses.sources import require_artifact
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.languages import family_order
from lse_interp.plotting.alignment_curves import alignment_frame, layer_average_frame
from lse_interp.plotting.alignment_report import alignment_table, table_markdown
from lse_interp.plotting.style import language_label

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_TITLE = "# Alignment, averaged over the layers\n\nCosine of sentences with their translations in %"


@dataclasses.dataclass(frozen=True)
class Config:
    """Tabulate alignment language by language."""

    source: str = "embedded"
    """`published`, `embedded`, a file that `python -m lse_interp.alignment` wrote, or a folder."""
    root: Path = Path("runs")
    """Folder of all runs, for `embedded`."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Write csv and markdown and return both.

    Raises:
        ArtifactError: no such artefact.
    """
    command = f"`python -m analyses.tables27_38_alignment --source {config.source}`"
    if config.source == "published":
        written = _write_published(config.figures, command=command)
    else:
        written = _write_measured(config, command=command)
    logger.info("wrote %s", written[1])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _write_published(folder: Path, *, command: str) -> list[Path]:
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
        f"{_TITLE}. {LEGEND} Means are recomputed; the paper prints that of the target "
        "subnetwork over all languages, 90.47. Source: published numbers: paper, Tables 27 to 38 "
        f"({published.MODELS['llama']}, FLORES-200). {command}\n\n" + "\n".join(sections)
    )
    return write_table(folder / "tables27_38_published", cells=cells, markdown=page)


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


def _write_measured(config: Config, *, command: str) -> list[Path]:
    folder = RunPaths(config.root, "embedded").alignment("mlt").parent
    path = folder if config.source == "embedded" else Path(config.source)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    files = files or [path / "mlt.safetensors"]
    parts = [
        AlignmentCurves.load(require_artifact(file, stage="lse_interp.alignment")) for file in files
    ]
    order = family_order(curves.language for curves in parts)
    parts = sorted(parts, key=lambda curves: order.index(curves.language))
    averages = [layer_average_frame(alignment_frame(curves)) for curves in parts]
    sections = [
        f"## {language_label(curves.language)}\n\n"
        f"{table_markdown(alignment_table(average), language=curves.language)}"
        for curves, average in zip(parts, averages, strict=True)
    ]
    first = parts[0]
    page = (
        f"{_TITLE}; in brackets the gap, which is the cosine less that of sentences that are no "
        f"translations of each other. Form of Tables 27 to 38. Source: {path}; {first.site}, "
        f"{first.pooling} pooling, {first.n_sentences} sentences. {command}\n\n"
        + "\n".join(sections)
    )
    name = config.source if config.source == "embedded" else _name(path)
    cells = pd.concat(averages, ignore_index=True)
    return write_table(config.figures / f"tables27_38_{name}", cells=cells, markdown=page)


def _name(path: Path) -> str:
    """Name a file after its model: runs/<model>/alignment."""
    return path.parent.name if path.name == "alignment" else path.stem


if __name__ == "__main__":
    raise SystemExit(main())
