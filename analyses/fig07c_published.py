"""Figure 7c from the published numbers: cosine averaged over layers, languages and sentences.

python -m analyses.fig07c_published

Draws Tables 27 to 38 of the paper, which stand in analyses/paper/tables27_38.csv.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lse_interp.core.cli import main_for
from lse_interp.plotting.alignment import plot_layer_average
from lse_interp.plotting.style import save_figure

__all__ = ["Config", "main", "published_averages", "run"]

logger = logging.getLogger(__name__)

_TABLES = Path(__file__).parent / "paper" / "tables27_38.csv"


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the published layer averages."""

    figures: Path = Path("figures")
    """Folder to write to."""


def published_averages() -> pd.DataFrame:
    """Return Tables 27 to 38: table, language, model, against, cosine (in percent)."""
    return pd.read_csv(_TABLES)


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written."""
    frame = published_averages()
    written = save_figure(
        plot_layer_average(frame).figure,
        config.figures / "fig07c_published",
        frame=frame,
        source="published numbers: paper, Tables 27 to 38 (Llama-3.1-8B, FLORES-200)",
        title="Alignment averaged over the layers, as published",
        caption=(
            "One dot per target language, averaged over the nine languages it is compared with; "
            "the bar is the mean over the twelve. Figure 7c, redrawn from the paper's tables."
        ),
        command="python -m analyses.fig07c_published",
    )
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
