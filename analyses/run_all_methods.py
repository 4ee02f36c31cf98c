"""Every method on every language: train missing runs, measure, write docs/results.csv.

python -m analyses.run_all_methods
python -m analyses.run_all_methods --langs mlt isl --seeds 0 1 2
python -m analyses.run_all_methods --collect

Each run is trained by `lse_interp.finetune` and measured by `lse_interp.comparison` on held-out
sentences, in its own language and in English. Finished runs are reused, so several processes may
share the languages; `--collect` then writes the table from existing results, and the same as
markdown between the markers of docs/results.md. `python -m analyses fig_methods` draws it.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.fig_methods import markdown
from analyses.finetune_runs import default_runs, finetune_config
from analyses.markdown import put_between
from analyses.method_tests import ahead_table, changes_table, speed_table
from lse_interp import comparison, finetune
from lse_interp.analysis.losses import LossComparison
from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.core.languages import LANGUAGES, PAPER_TARGETS
from lse_interp.plotting.method_tables import methods_frame
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.methods import method_looks

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_CONTROLS = ("random:layer", "random:size")


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the methods on the embedded model."""

    langs: tuple[str, ...] = PAPER_TARGETS
    """Languages to train."""
    methods: tuple[str, ...] = tuple(
        label for label, look in method_looks().items() if look.compared
    )
    """Methods, with what random neurons match behind the colon."""
    seeds: tuple[int, ...] = (0,)
    """One run per seed."""
    collect: bool = False
    """Train nothing; write the table from existing artefacts."""
    results: Path = Path("docs/results.csv")
    """The table."""
    page: Path = Path("docs/results.md")
    """The page that shows it, if it exists."""
    curves: Path = Path("figures/figB_training_dynamics.csv")
    """Validation curves, as `python -m analyses figB` wrote them."""
    root: Path = Path("runs")
    """Folder of all runs."""


def run(config: Config) -> pd.DataFrame:
    """Train and measure what is missing, and write the table of all artefacts.

    Raises:
        ArtifactError: nothing was measured yet.
        LseError: see `finetune.run` and `comparison.run`.
    """
    if not config.collect:
        for language in config.langs:
            for seed in config.seeds:
                for method in config.methods:
                    training = Hyperparameters(seed=seed)
                    where = {"lang": language, "root": config.root}
                    finetune.run(finetune_config(method, training=training, **where))
            comparison.run(
                comparison.Config(lang=language, runs=_names(config, language), root=config.root)
            )
    table = _collect(RunPaths(config.root, "embedded"))
    write_atomic(config.results, lambda path: table.to_csv(path, index=False))
    if config.page.is_file():
        parts = [changes_table(table), ahead_table(table)]
        if config.curves.is_file():
            parts.append(speed_table(pd.read_csv(config.curves)))
        text = "\n".join([*parts, markdown(methods_frame(table))])
        put_between(config.page, {"tables": text})
    logger.info("wrote %s (%d rows)", config.results, len(table))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _names(config: Config, language: str) -> tuple[str, ...]:
    """Name the finished runs of a language, without those on a part of the text."""
    found = default_runs(RunPaths(config.root, "embedded"), swept=False)
    return tuple(run.folder.name for run in found.values() if run.language == language)


def _collect(paths: RunPaths) -> pd.DataFrame:
    found = [paths.comparison(code) for code in LANGUAGES if paths.comparison(code).is_file()]
    if not found:
        raise ArtifactError(
            f"{paths.folder / 'comparison'} holds no losses; leave out --collect to measure them."
        )
    frames = []
    for path in found:
        losses = LossComparison.load(path)
        controls = [method for method in _CONTROLS if method in losses.methods]
        frames.append(losses.to_frame(against=("base", *controls)))
    return pd.concat(frames, ignore_index=True)


if __name__ == "__main__":
    raise SystemExit(main())
