"""Table 2: the scores of every method, averaged over the languages.

    python -m analyses.table02_averages --source published
    python -m analyses.table02_averages --source published --model nemo
    python -m analyses.table02_averages --source embedded
    python -m analyses.table02_averages --source runs/my-model/evaluation

The paper prints this table for its first model alone; that of the second is made of its Tables 15
to 26.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from analyses import published
from analyses.paper_tables import LEGEND, ranked, scores_markdown, summary_cells, write_table
from analyses.score_sources import EVALUATION, Scores, read_scores
from lse_interp.core.cli import main_for

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_RECOMPUTED = "In brackets the mean over Tables 3 to 14, where it does not round to what is printed"
_ERRORS = "± is the standard error over questions"


@dataclasses.dataclass(frozen=True)
class Config:
    """Average task scores over languages."""

    source: str = "embedded"
    """`published`, `embedded`, an evaluation, a folder of them, or a csv of the same columns."""
    model: published.Model = "llama"
    """Whose published scores."""
    evaluation: Path = EVALUATION
    """The scores of the embedded model."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Write the table as csv and markdown, print it, and return the files written.

    Raises:
        ArtifactError: no such scores.
        LseError: scores that lack columns, or stand there twice.
    """
    scores = read_scores(config.source, model=config.model, evaluation=config.evaluation)
    printed = None
    if config.source == "published" and config.model == "llama":
        printed = published.averages()
    cells = ranked(summary_cells(scores, printed=printed))
    table = scores_markdown(cells, counted="over")
    other = "_nemo" if config.source == "published" and config.model == "nemo" else ""
    written = write_table(
        config.figures / f"table02_{scores.name}{other}",
        cells=cells,
        markdown=f"{table}\n{_about(config, scores, printed is not None)}\n",
    )
    sys.stdout.write(table)
    logger.info("wrote %s", written[1])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _about(config: Config, scores: Scores, is_printed: bool) -> str:
    sentences = [
        f"Mean over the languages that have the benchmark, whose number stands under Over. {LEGEND}"
    ]
    if is_printed:
        sentences.append(f"{_RECOMPUTED}.")
    if scores.frame["stderr"].notna().any():
        sentences.append(f"{_ERRORS}, language by language, taken as independent.")
    if "nats" in set(scores.frame["unit"]):
        sentences.append("Losses in nats are best when low, and in no average.")
    command = f"python -m analyses.table02_averages --source {config.source}"
    command += f" --model {config.model}" if config.model != "llama" else ""
    about = scores.about.replace("Tables 3", "Table 2 and Tables 3") if is_printed else scores.about
    return f"{' '.join(sentences)} Form of Table 2. Source: {about}. `{command}`"


if __name__ == "__main__":
    raise SystemExit(main())
