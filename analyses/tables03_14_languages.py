"""Tables 3 to 14: the scores of every method, one table per language.

python -m analyses.tables03_14_languages --source published
python -m analyses.tables03_14_languages --source embedded
python -m analyses.tables03_14_languages --source runs/my-model/evaluation
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses import published
from analyses.paper_tables import LEGEND, language_cells, ranked, scores_markdown, write_table
from analyses.score_sources import EVALUATION, Scores, read_scores
from lse_interp.core.cli import main_for
from lse_interp.core.languages import PAPER_TARGETS
from lse_interp.plotting.style import language_label

__all__ = ["Config", "main", "run", "write_languages"]

logger = logging.getLogger(__name__)

_FIRST = {"llama": 3, "nemo": 15}


@dataclasses.dataclass(frozen=True)
class Config:
    """Tabulate task scores language by language."""

    source: str = "embedded"
    """`published`, `embedded`, an evaluation, a folder of them, or a csv of the same columns."""
    evaluation: Path = EVALUATION
    """The scores of the embedded model."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Write csv and markdown and return both.

    Raises:
        ArtifactError: no such scores.
        LseError: scores that lack columns, or stand there twice.
    """
    scores = read_scores(config.source, model="llama", evaluation=config.evaluation)
    command = f"python -m analyses.tables03_14_languages --source {config.source}"
    return write_languages(
        scores, config.figures, name="tables03_14", model="llama", command=command
    )


def write_languages(
    scores: Scores, folder: Path, *, name: str, model: published.Model, command: str
) -> list[Path]:
    """Write one table per language, all on one page.

    Args:
        scores: of one language or several.
        folder: where to write.
        name: the family of tables; the source's name follows it.
        model: whose tables of the paper these have the form of.
        command: what writes the page again.

    Returns:
        The csv and the page.
    """
    cells = ranked(language_cells(scores), by=("language", "group", "label"))
    codes = list(dict.fromkeys(cells["language"]))
    sections = []
    for code in sorted(codes, key=_place):
        table = scores_markdown(cells[cells["language"] == code])
        sections.append(f"## {_title(code, scores, model)}\n\n{table}")
    first = _FIRST[model]
    page = (
        f"# Scores language by language\n\n{_about(scores, cells)} Form of Tables {first} to "
        f"{first + 11}. Source: {scores.about}. `{command}`\n\n" + "\n".join(sections)
    )
    written = write_table(folder / f"{name}_{scores.name}", cells=cells, markdown=page)
    logger.info("wrote %s", written[1])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _place(code: str) -> tuple[int, str]:
    known = code in PAPER_TARGETS
    return (PAPER_TARGETS.index(code) if known else len(PAPER_TARGETS), code)


def _title(code: str, scores: Scores, model: published.Model) -> str:
    if scores.printed is None:
        return language_label(code)
    return f"{language_label(code)} (Table {_FIRST[model] + PAPER_TARGETS.index(code)})"


def _about(scores: Scores, cells: pd.DataFrame) -> str:
    sentences = [f"{LEGEND} Averages say over how many rows; – is a cell that does not exist."]
    if scores.printed is not None:
        sentences.append(
            "In brackets the mean of the rows, where it does not round to the printed average."
        )
    if cells["stderr"].notna().any():
        sentences.append(
            "± is the standard error over questions, in averages taken as independent."
        )
    if "nats" in set(cells["unit"]):
        sentences.append("Losses in nats are best when low, and in no average.")
    if scores.frame["n_seeds"].max() > 1:
        sentences.append("Methods with several seeds show the mean over them.")
    return " ".join(sentences)


if __name__ == "__main__":
    raise SystemExit(main())
