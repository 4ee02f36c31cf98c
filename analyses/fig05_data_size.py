"""Figure 5: what more training text brings, from runs with several token budgets.

python -m lse_interp.finetune --lang mlt --n-tokens 10000 20000 40000
python -m analyses.fig05_data_size
python -m analyses.fig05_data_size --metric score

The paper shows task scores; the validation loss is an addition.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from analyses.finetune_runs import default_runs, describe_runs, read_runs
from analyses.scores import EVALUATION_SIZES, size_scores
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.plotting.data_size import (
    data_size_frame,
    data_size_scores_frame,
    plot_data_size_panels,
    plot_data_size_scores_panels,
)
from lse_interp.plotting.style import figure_stem, method_label, save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the improvement over the amount of text."""

    runs: tuple[Path, ...] = ()
    """Folders of runs with a token budget, instead of all finished ones."""
    method: str = "target"
    """Which method: `target`, `random:layer`, `ffn`, `full`, `lora`, ..."""
    model: str = "embedded"
    """The model whose runs are drawn."""
    root: Path = Path("runs")
    """Folder of all runs."""
    metric: Literal["loss", "score"] = "loss"
    """Validation loss of the runs, or the task scores in `--scores`."""
    scores: Path = EVALUATION_SIZES
    """Task scores of runs with several token budgets, as csv with a column `tokens`."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written.

    Raises:
        ArtifactError: no run with a token budget, or one that cannot be read; no such scores.
        LseError: an unknown method, or runs of several base models.
    """
    written = (_draw_losses if config.metric == "loss" else _draw_scores)(config)
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _draw_losses(config: Config) -> list[Path]:
    label = method_label(config.method)
    paths = RunPaths(config.root, config.model)
    found = read_runs(config.runs) if config.runs else default_runs(paths, swept=True)
    runs = {name: run for name, run in found.items() if run.method == config.method}
    if not runs:
        raise ArtifactError(
            f"None of the {len(found)} runs with a token budget is of method {config.method}."
        )
    frame = data_size_frame(runs)
    return save_figure(
        plot_data_size_panels(frame)[0].figure,
        figure_stem(config.figures, _name(config), next(iter(runs.values())).model),
        frame=frame,
        source=f"{describe_runs(runs)}; {label}",
        title="What more training text brings",
        caption=(
            "Fall in validation loss against the base model over the tokens of training text, in "
            "the language trained; lines are means over seeds. Form of Figure 5, which shows task "
            "scores."
        ),
        command=_command(config),
    )


def _draw_scores(config: Config) -> list[Path]:
    scores = size_scores(config.scores)
    label = method_label(config.method)
    own = scores[scores["method"] == config.method]
    if own.empty:
        raise ArtifactError(f"{config.scores} has no scores of method {config.method}.")
    frame = data_size_scores_frame(own)
    n_seeds = own["seed"].nunique()
    return save_figure(
        plot_data_size_scores_panels(frame)[0].figure,
        config.figures / _name(config),
        frame=frame,
        source=(
            f"{config.scores}; {frame['language'].nunique()} languages; "
            f"{n_seeds} seed{'s' * (n_seeds > 1)}; {label}"
        ),
        title="What more training text brings, in task scores",
        caption=(
            "Change of the score against the base model over the tokens of training text, averaged "
            "over tasks; light lines are 95 % intervals, paired over questions, that take tasks as "
            "independent. Form of Figure 5."
        ),
        command=_command(config),
    )


def _name(config: Config) -> str:
    name = "fig05_data_size" + ("_scores" if config.metric == "score" else "")
    return name if config.method == "target" else f"{name}_{config.method.replace(':', '-')}"


def _command(config: Config) -> str:
    words = ["python -m analyses.fig05_data_size"]
    words += [f"--runs {' '.join(map(str, config.runs))}"] if config.runs else []
    words += [f"--method {config.method}"] if config.method != "target" else []
    words += [f"--model {config.model}"] if config.model != "embedded" else []
    words += [f"--metric {config.metric}"] if config.metric != "loss" else []
    words += [f"--scores {config.scores}"] if config.scores != EVALUATION_SIZES else []
    words += [f"--root {config.root}"] if config.root != Path("runs") else []
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
