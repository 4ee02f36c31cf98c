"""Figure 3: what target fine-tuning gains on average, language by language.

python -m analyses.fig03_improvements
python -m analyses.fig03_improvements --source published
python -m analyses.fig03_improvements --source runs/my-model/evaluation
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.published import MODELS
from analyses.scores import EVALUATION, measured_scores, published_scores
from lse_interp.core.cli import main_for
from lse_interp.plotting.scores import improvements_frame, plot_improvements_panels
from lse_interp.plotting.style import language_label, save_figure

__all__ = ["Config", "describe_decreases", "main", "published_improvements", "run"]

logger = logging.getLogger(__name__)

_PUBLISHED = (
    "Change of the score against the base model by target fine-tuning, averaged over tasks; one "
    "dot per language and model. Figure 3, recomputed from the tables of single languages. The "
    "paper says that it averages all tasks, and that only Georgian (Llama-3.1-8B), Slovenian and "
    "Nepali (Mistral-Nemo-12B) decrease. Below 0 in the tables are: {decreases}. The text fits "
    "target-language tasks better."
)
_MEASURED = (
    "Change of the score against the base model by target fine-tuning, averaged over tasks; lines "
    "are 95 % intervals, paired over questions, that take tasks as independent. Small dots: the "
    "other methods. Form of Figure 3."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the average improvement."""

    source: str = "embedded"
    """`embedded`, `published`, a table of scores as csv, an evaluation, or a folder of these."""
    evaluation: Path = EVALUATION
    """The scores of the embedded model."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written.

    Raises:
        ArtifactError: no scores there.
    """
    draw = _draw_published if config.source == "published" else _draw_measured
    written = draw(config)
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def published_improvements() -> pd.DataFrame:
    """Return what target fine-tuning gains in both models of the paper, in the published tables."""
    parts = [improvements_frame(published_scores(key)).assign(model=MODELS[key]) for key in MODELS]
    frame = pd.concat(parts, ignore_index=True)
    return frame[frame["method"] == "target"].drop(columns=["low", "high", "n_seeds"])


def describe_decreases(frame: pd.DataFrame) -> str:
    """List the averages below 0 in the published tables, over either kind of tasks."""
    parts = []
    for tasks, words in (("target", "target-language tasks"), ("all", "all tasks")):
        falling = frame[(frame["tasks"] == tasks) & (frame["improvement"] < 0)]
        named = [
            f"{', '.join(map(language_label, rows['language']))} ({model})"
            for model, rows in falling.groupby("model", sort=False)
        ]
        parts.append(f"over {words}, {', '.join(named)}")
    return "; ".join(parts)


def _draw_published(config: Config) -> list[Path]:
    frame = published_improvements()
    return save_figure(
        plot_improvements_panels(frame.assign(low=float("nan")))[0].figure,
        config.figures / "fig03_improvements_published",
        frame=frame,
        source="published numbers: paper, Tables 3 to 26",
        title="What target fine-tuning gains, as published",
        caption=_PUBLISHED.format(decreases=describe_decreases(frame)),
        command="python -m analyses.fig03_improvements --source published",
    )


def _draw_measured(config: Config) -> list[Path]:
    scores = measured_scores(_path(config))
    frame = improvements_frame(scores)
    embedded = config.source == "embedded"
    name = "fig03_improvements" + ("" if embedded else f"_{Path(config.source).stem}")
    flags = "" if embedded else f" --source {config.source}"
    seeds = sorted(scores.loc[scores["method"] != "base", "seed"].unique())
    return save_figure(
        plot_improvements_panels(frame, others=frame["method"].nunique() > 1)[0].figure,
        config.figures / name,
        frame=frame,
        source=(
            f"{_path(config)}; {frame['language'].nunique()} "
            f"languages; {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        ),
        title="What target fine-tuning gains in every language",
        caption=_MEASURED,
        command=f"python -m analyses.fig03_improvements{flags}",
    )


def _path(config: Config) -> Path:
    return config.evaluation if config.source == "embedded" else Path(config.source)


if __name__ == "__main__":
    raise SystemExit(main())
