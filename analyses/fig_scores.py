"""A picture of Table 2: every method on every task, averaged over languages.

python -m analyses.fig_scores
python -m analyses.fig_scores --source published
python -m analyses.fig_scores --source runs/my-model/evaluation
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.published import MODELS
from analyses.scores import EVALUATION, measured_scores, published_scores
from lse_interp.core.cli import main_for
from lse_interp.plotting.scores import plot_scores_panels, scores_frame
from lse_interp.plotting.style import save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_TABLES = {"llama": "Tables 3 to 14", "nemo": "Tables 15 to 26"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the scores of all methods."""

    source: str = "embedded"
    """`embedded`, `published`, a table of scores as csv, an evaluation, or a folder of these."""
    evaluation: Path = EVALUATION
    """The scores of the embedded model."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw one figure, or one for each published model, and return the files written.

    Raises:
        ArtifactError: no scores there.
    """
    if config.source == "published":
        written = [path for model in MODELS for path in _draw_published(config, model)]
    else:
        written = _draw_measured(config)
    for path in written:
        if path.suffix == ".png":
            logger.info("wrote %s", path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _draw_published(config: Config, model: str) -> list[Path]:
    frame = scores_frame(published_scores(model)).drop(columns="n_seeds")
    return save_figure(
        plot_scores_panels(frame)[0].figure,
        config.figures / ("fig_scores_published" + ("_nemo" if model == "nemo" else "")),
        frame=frame,
        source=f"published numbers: paper, {_TABLES[model]} ({MODELS[model]})",
        title=f"Every method on every task, as published for {MODELS[model]}",
        caption=(
            "Means over the languages; the line is the base model. The numbers of Table 2, "
            "recomputed from the tables of single languages."
            if model == "llama"
            else "Means over the languages; the line is the base model. The form of Table 2, which "
            "the paper does not print for this model, from the tables of single languages."
        ),
        command="python -m analyses.fig_scores --source published",
    )


def _draw_measured(config: Config) -> list[Path]:
    scores = measured_scores(_path(config))
    frame = scores_frame(scores)
    embedded = config.source == "embedded"
    name = "fig_scores" + ("" if embedded else f"_{Path(config.source).stem}")
    return save_figure(
        plot_scores_panels(frame)[0].figure,
        config.figures / name,
        frame=frame,
        source=f"{_path(config)}; {_languages(scores)}",
        title="Every method on every task",
        caption=(
            "Means over languages and seeds; light lines are one standard error to each side, by "
            "the choice of questions; the line through a row is the base model. Form of Table 2."
        ),
        command="python -m analyses.fig_scores"
        + ("" if embedded else f" --source {config.source}"),
    )


def _languages(scores: pd.DataFrame) -> str:
    return f"{scores['language'].nunique()} languages"


def _path(config: Config) -> Path:
    return config.evaluation if config.source == "embedded" else Path(config.source)


if __name__ == "__main__":
    raise SystemExit(main())
