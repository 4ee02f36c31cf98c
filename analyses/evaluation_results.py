"""Task scores of every method on every language: evaluate missing runs, write the tables.

python -m analyses.evaluation_results
python -m analyses.evaluation_results --langs mlt isl
python -m analyses.evaluation_results --collect

Evaluates the finished runs of `python -m analyses.run_all_methods`, and those with a token budget
(`python -m lse_interp.finetune --n-tokens`). Writes docs/evaluation.csv and
docs/evaluation_sizes.csv. A model is asked each question once, so several processes may share the
languages. `--collect` then writes the tables from existing results, and the averages between the
markers in docs/results.md.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.finetune_runs import default_runs
from analyses.markdown import interval, put_between
from analyses.paper_tables import LEGEND, ranked, scores_markdown, summary_cells
from analyses.scores import EVALUATION, EVALUATION_SIZES, read_scores
from lse_interp import evaluation
from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.core.languages import PAPER_TARGETS
from lse_interp.plotting.picture import markdown_table
from lse_interp.plotting.style import method_label, method_order
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.tasks.results import EvaluationTable

__all__ = ["Config", "main", "read_tables", "run"]

logger = logging.getLogger(__name__)

_SIZES = "sizes"


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluate the runs of the embedded model."""

    langs: tuple[str, ...] = PAPER_TARGETS
    """Languages whose runs are evaluated."""
    collect: bool = False
    """Ask nothing; write the tables from existing artefacts."""
    results: Path = EVALUATION
    """The table of all methods."""
    sizes: Path = EVALUATION_SIZES
    """The table of target fine-tuning on several amounts of text."""
    page: Path = Path("docs/results.md")
    """The page that shows them, if it exists."""
    root: Path = Path("runs")
    """Folder of all runs."""


def run(config: Config) -> pd.DataFrame:
    """Evaluate what is missing, and write the tables of all artefacts.

    Raises:
        ArtifactError: no finished run, or nothing evaluated yet.
        LseError: see `evaluation.run`.
    """
    paths = RunPaths(config.root, "embedded")
    methods, sizes = (default_runs(paths, swept=swept) for swept in (False, True))
    if not config.collect:
        for language in config.langs:
            _evaluate(config, language, methods, name="")
            _evaluate(config, language, sizes, name=_SIZES)
    folder = paths.evaluation("").parent
    table = _stacked(folder)
    write_atomic(config.results, lambda path: table.to_csv(path, index=False))
    by_size = _with_tokens(_stacked(folder / _SIZES), sizes)
    write_atomic(config.sizes, lambda path: by_size.to_csv(path, index=False))
    if config.page.is_file():
        put_between(config.page, {"scores": _tables(table, config.results)})
    logger.info("wrote %s (%d rows) and %s", config.results, len(table), config.sizes)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _evaluate(config: Config, language: str, runs: dict[str, FinetuneRun], *, name: str) -> None:
    names = tuple(run.folder.name for run in runs.values() if run.language == language)
    if names:
        evaluation.run(
            evaluation.Config(langs=(language,), runs=names, name=name, root=config.root)
        )


def read_tables(folder: Path) -> list[EvaluationTable]:
    """Read what was evaluated in every language of the paper.

    Raises:
        ArtifactError: nothing was evaluated yet.
    """
    found = [folder / f"{code}.safetensors" for code in PAPER_TARGETS]
    tables = [EvaluationTable.load(path) for path in found if path.is_file()]
    if not tables:
        raise ArtifactError(
            f"{folder} holds no scores; `python -m analyses.evaluation_results` without --collect "
            "makes some."
        )
    return tables


def _stacked(folder: Path) -> pd.DataFrame:
    return pd.concat([table.to_frame() for table in read_tables(folder)], ignore_index=True)


def _tables(table: pd.DataFrame, results: Path) -> str:
    """Write Table 2, and how much each method changed every score."""
    scores = read_scores(results)
    averages = scores_markdown(ranked(summary_cells(scores)), counted="over")
    return (
        f"Mean scores over languages, in the form of the paper's Table 2. {LEGEND}\n\n{averages}\n"
        f"{_changes(table)}\n"
    )


def _changes(table: pd.DataFrame) -> str:
    own = table[table["headline"] & (table["method"] != "base")]
    keys = ["group", "row", "language", "method"]
    means = own.groupby(keys, sort=False)["difference"].mean().unstack("method")
    methods = method_order(set(own["method"]))
    against = [method for method in methods if method.startswith("random")]
    heads = [method_label(method) for method in methods]
    heads += [f"Target less {method_label(method)}" for method in against]
    n = own["language"].nunique()
    lines = []
    for (_, row), part in means.groupby(["group", "row"], sort=False):
        cells = [interval(part[method]) for method in methods]
        cells += [interval(part["target"] - part[method]) for method in against]
        lines.append([str(row), *cells])
    return (
        f"Change against the base, mean over {n} languages (each the mean of its seeds) with 95 % "
        f"t-intervals over languages\n\n{markdown_table(['', *heads], lines)}"
    )


def _with_tokens(table: pd.DataFrame, runs: dict[str, FinetuneRun]) -> pd.DataFrame:
    """Add how much text each model was given; 0 for the base model."""
    given = {
        (run.language, run.folder.name): run.settings["n_training_tokens"] for run in runs.values()
    }
    tokens = [
        given.get((row.language, row.model), 0) for row in table[["language", "model"]].itertuples()
    ]
    return table.assign(tokens=tokens)


if __name__ == "__main__":
    raise SystemExit(main())
