"""Figure 5: what more training text brings, from runs with several token budgets.

python -m lse_interp.finetune --lang mlt --tokens 10000 20000 40000
python -m analyses.fig05_data_size

The paper shows task scores; this picture shows the validation loss.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.finetune_runs import default_runs, describe_runs, read_runs
from lse_interp.core.artifacts import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.plotting.data_size import data_size_frame, plot_data_size_panels
from lse_interp.plotting.style import figure_stem, method_label, save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the improvement over the amount of text."""

    runs: tuple[Path, ...] = ()
    """Folders that `python -m lse_interp.finetune --tokens` wrote, instead of all finished runs."""
    method: str = "target"
    """Which method: `target`, `random:layer`, `ffn`, `full`, `lora`, ..."""
    model: str = "embedded"
    """The model whose runs are drawn."""
    root: Path = Path("runs")
    """Folder of all runs."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written.

    Raises:
        ArtifactError: no run with a token budget, or one that cannot be read.
        LseError: an unknown method, or runs of several base models.
    """
    label = method_label(config.method)
    paths = RunPaths(config.root, config.model)
    found = read_runs(config.runs) if config.runs else default_runs(paths, swept=True)
    runs = {name: run for name, run in found.items() if run.method == config.method}
    if not runs:
        raise ArtifactError(
            f"None of the {len(found)} runs with a token budget is of method {config.method}."
        )
    frame = data_size_frame(runs)
    name = "fig05_data_size" + ("" if config.method == "target" else f"_{_slug(config.method)}")
    written = save_figure(
        plot_data_size_panels(frame)[0].figure,
        figure_stem(config.figures, name, next(iter(runs.values())).model),
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
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _slug(method: str) -> str:
    return method.replace(":", "-")


def _command(config: Config) -> str:
    words = ["python -m analyses.fig05_data_size"]
    words += [f"--runs {' '.join(map(str, config.runs))}"] if config.runs else []
    words += [f"--method {config.method}"] if config.method != "target" else []
    words += [f"--model {config.model}"] if config.model != "embedded" else []
    words += [f"--root {config.root}"] if config.root != Path("runs") else []
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
