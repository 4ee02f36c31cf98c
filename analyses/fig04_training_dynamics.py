"""Figure 4 and appendix B: the validation loss of all methods over the tokens seen.

python -m analyses.fig04_training_dynamics
python -m analyses.fig04_training_dynamics --lang slk afr
python -m analyses.fig04_training_dynamics --runs runs/embedded/finetune/mlt/*

By default all languages with finished runs of two methods or more: one picture of Maltese (or,
without it, of the language with most methods), and one small panel for each where there are
several. Runs with a token budget, a name of their own or another profile are left out; name their
folders with `--runs`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.finetune_runs import default_runs, describe_runs, read_runs
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.core.languages import family_order, lookup
from lse_interp.plotting.loss_curves import (
    dynamics_frame,
    plot_dynamics_panels,
    plot_small_dynamics,
)
from lse_interp.plotting.style import figure_stem, language_label, save_figure
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_Runs = dict[str, FinetuneRun]


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw validation curves."""

    lang: tuple[str, ...] = ()
    """One picture for each of these languages."""
    runs: tuple[Path, ...] = ()
    """Folders that `python -m lse_interp.finetune` wrote, instead of all finished runs."""
    model: str = "embedded"
    """The model whose runs are drawn."""
    root: Path = Path("runs")
    """Folder of all runs."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the pictures and return the files written.

    Raises:
        ArtifactError: no run to draw, or one that cannot be read.
        LseError: runs of several base models, or validated on different text.
    """
    runs = read_runs(config.runs) if config.runs else _finished(config)
    frame = dynamics_frame(runs)
    written = []
    for language in _singles(frame, config):
        written += _draw_one(_of(runs, language), config)
    if frame["language"].nunique() > 1 and not config.lang:
        written += _draw_all(runs, frame, config)
    for path in written:
        if path.suffix == ".png":
            logger.info("wrote %s", path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _finished(config: Config) -> _Runs:
    """Read the finished runs of the languages asked for, or of those with something to compare."""
    found = default_runs(RunPaths(config.root, config.model), swept=False)
    methods: dict[str, set[str]] = {}
    for one in found.values():
        methods.setdefault(one.language, set()).add(one.method)
    asked = {lookup(name).code for name in config.lang}
    if missing := asked - set(methods):
        raise ArtifactError(
            f"No finished fine-tuning run of {', '.join(sorted(missing))} in "
            f"{RunPaths(config.root, config.model).folder}; there are runs of "
            f"{', '.join(family_order(methods)) or 'no language'}."
        )
    chosen = asked or {code for code, names in methods.items() if len(names) > 1}
    if not chosen:
        raise ArtifactError(
            "No language has finished runs of two methods to compare. Train another: "
            "`python -m lse_interp.finetune --lang mlt --method random`."
        )
    return {name: run for name, run in found.items() if run.language in chosen}


def _singles(frame: pd.DataFrame, config: Config) -> list[str]:
    if config.lang:
        return [lookup(name).code for name in config.lang]
    n_methods = frame.groupby("language")["method"].nunique()
    return ["mlt" if "mlt" in n_methods else str(n_methods.idxmax())]


def _of(runs: _Runs, language: str) -> _Runs:
    chosen = {name: run for name, run in runs.items() if run.language == language}
    if not chosen:
        raise LseError(
            f"None of the runs given trained {language}; leave out `--lang`, or give runs of it."
        )
    return chosen


def _draw_one(runs: _Runs, config: Config) -> list[Path]:
    frame, first = dynamics_frame(runs), next(iter(runs.values()))
    name = language_label(first.language)
    return save_figure(
        plot_dynamics_panels(frame)[0].figure,
        figure_stem(config.figures, f"fig04_training_dynamics_{first.language}", first.model),
        frame=frame,
        source=describe_runs(runs),
        title=f"Training the model on {name}: every method's validation loss",
        caption=(
            "Validation loss over the tokens seen; dotted, the base model; a dot marks the lowest "
            "point in the language trained. Thick lines are means over seeds, thin lines single "
            "seeds. Form of Figure 4; further panels, on a scale of the same span, show languages "
            "that were not trained."
        ),
        command=_command(config, language=first.language),
    )


def _draw_all(runs: _Runs, frame: pd.DataFrame, config: Config) -> list[Path]:
    first = next(iter(runs.values()))
    return save_figure(
        plot_small_dynamics(frame)[0].figure,
        figure_stem(config.figures, "figB_training_dynamics", first.model),
        frame=frame,
        source=describe_runs(runs),
        title="Training the model on each language: every method's validation loss",
        caption=(
            "Validation loss in the language trained over the tokens seen, each panel on its own "
            "scale; dotted, the base model; a dot marks the lowest point. Form of appendix B."
        ),
        command=_command(config, language=None),
    )


def _command(config: Config, *, language: str | None) -> str:
    words = ["python -m analyses.fig04_training_dynamics"]
    words += [f"--lang {language}"] if language is not None else []
    words += [f"--runs {' '.join(map(str, config.runs))}"] if config.runs else []
    words += [f"--model {config.model}"] if config.model != "embedded" else []
    words += [f"--root {config.root}"] if config.root != Path("runs") else []
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
