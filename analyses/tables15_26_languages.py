"""Tables 15 to 26: the scores of the second model, one table per language.

python -m analyses.tables15_26_languages
python -m analyses.tables15_26_languages --source runs/mistralai--Mistral-Nemo-Base-2407/evaluation
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from analyses.score_sources import read_scores
from analyses.tables03_14_languages import write_languages
from lse_interp.core.cli import main_for

__all__ = ["Config", "main", "run"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Tabulate task scores of a second model language by language."""

    source: str = "published"
    """`published`, an evaluation, a folder of them, or a csv of the same columns."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Write csv and markdown and return both.

    Raises:
        ArtifactError: no such scores.
        LseError: scores that lack columns, or stand there twice.
    """
    return write_languages(
        read_scores(config.source, model="nemo"),
        config.figures,
        name="tables15_26",
        model="nemo",
        command=f"python -m analyses.tables15_26_languages --source {config.source}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
