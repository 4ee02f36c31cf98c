r"""Ask a model and its fine-tuned versions the same questions: what training gained, what it cost.

Tasks run in lm-evaluation-harness with the paper's prompts (appendix C.2) and generation settings
(C.3). Every model is compared with the base, question by question: McNemar's exact test, or a
paired bootstrap. docs/evaluation.md lists the tasks and scores.

Source: paper, section 4.2, Tables 2 to 26, appendix C.

    python -m lse_interp.evaluation --langs mlt
    python -m lse_interp.evaluation --langs mlt isl --runs target random-layer
    python -m lse_interp.evaluation --langs mlt --tasks paper --data-dir benchmarks \
        --model meta-llama/Llama-3.1-8B --dtype bfloat16 --device cuda

writes `runs/<model>/evaluation/<lang>.safetensors`, and the answers of each model into
`runs/<model>/evaluation/models/<hash of its weights>/`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, main_for
from lse_interp.core.errors import LseError
from lse_interp.core.languages import codes_of
from lse_interp.tasks.benchmarks import BENCHMARKS, SUITES
from lse_interp.tasks.kinds.translation import Style

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_MODELS = "models"
_NAMES = tyro.conf.arg(metavar=f"[{{{','.join((*SUITES, *BENCHMARKS.names()))}}} [...]]")


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluate a model and its fine-tuning runs on tasks of a language and of English."""

    langs: tuple[str, ...]
    """Languages, e.g. `mlt`; the runs of each are evaluated on its own tasks."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    runs: tuple[str, ...] | None = None
    """Runs: names under `root/<model>/finetune/<lang>/` or folders, each `path` or `label=path`.
    `all` means every finished one; by default those on the whole text, without a budget."""
    tasks: Annotated[tuple[str, ...] | None, _NAMES] = None
    """Names of tasks; `paper` and `embedded` stand for several. By default those of the model:
    `embedded` for the embedded model, `paper` for others."""
    data_dir: Path | None = None
    """Folder with local copies of the benchmarks, instead of the hub; docs/evaluation.md shows how
    it is laid out."""
    parallel: str | None = None
    """Sentences whose loss is measured too, in the language and in the paper's nine as far as they
    are in the text: `embedded`, `flores`, `ntrex:<folder>`, a folder, or `none`. By default those
    of the model: `embedded` for the embedded model, none for others."""
    prompt_style: Style = "paper"
    """Before `Translation:`, a line break as the paper prints it, or a space as its code has."""
    limit: int | None = None
    """Take the first so many questions of a task, and sentences; by default all."""
    batch_size: int = 32
    """Questions per forward pass; changes results by rounding alone."""
    task_files: Path | None = None
    """Ask nothing; write the benchmarks into this folder as task files for lm-evaluation-harness,
    whose own command line (and vLLM backend) then runs them."""
    name: str = ""
    """Folder under `root/<model>/evaluation/` for the tables, to keep several of them."""
    root: Path = Path("runs")
    """Folder of all runs; this command writes `root/<model>/evaluation/`."""
    overwrite: bool = False
    """Ask again, even if there are scores; the table is made again."""


def run(config: Config) -> dict[str, Any]:
    """Ask the models, write a table per language and report.

    No model is asked the same question twice: an interrupted run resumes with the next task. Models
    that are in a table but not in `runs` stay in it; other questions need a table of their own
    (`name`). If the base model was trained again, its table is made again.

    Returns:
        Language -> `EvaluationTable` of the models asked for.

    Raises:
        LseError: See `update_table`, `questions_of`, `load_parallel` and `load_model`; or two runs
            of one method and seed, which cannot be averaged over languages.
    """
    if Path(config.name).name != config.name or config.name in ("..", _MODELS):
        raise LseError(
            f"`name` must be the name of one folder, other than {_MODELS}; got {config.name!r}. "
            "Tables elsewhere need another --root."
        )
    codes = codes_of(config.langs)
    texts: dict[str, Any] = {"data_dir": config.data_dir, "prompt_style": config.prompt_style}
    if config.task_files is not None:
        from lse_interp.tasks.yaml_export import export_tasks

        export_tasks(config.task_files, codes, tasks=config.tasks or ("paper",), **texts)
        return {}
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.models.loading import read_defaults
    from lse_interp.subnetworks.find import require_same_base
    from lse_interp.tasks.evaluation import sentences_for
    from lse_interp.tasks.harness import require_harness
    from lse_interp.tasks.questions import questions_of
    from lse_interp.tasks.table_update import Asking, choose_models, load_table, update_table
    from lse_interp.tasks.tables import averages_report

    require_harness()
    defaults = read_defaults(config.model.model)
    tasks, spec = config.tasks or defaults.tasks, config.parallel or defaults.parallel
    paths = RunPaths(config.root, config.model.model)
    plans = []
    # All languages are checked before a model is loaded for the first.
    for code in codes:
        path = paths.evaluation(code)
        choices = choose_models(config.model, runs=config.runs, paths=paths, language=code)
        asking = Asking(
            language=code,
            questions=questions_of(code, tasks=tasks, limit=config.limit, **texts),
            parallel=sentences_for(code, spec, limit=config.limit),
            batch_size=config.batch_size,
            answers=path.parent / _MODELS,
            overwrite=config.overwrite,
        )
        out = path.parent / config.name / path.name
        if out.exists() and not config.overwrite:
            load_table(out, asking, config=config)
        plans.append((out, choices, asking))
    require_same_base([choice for _, choices, _ in plans for choice in choices])
    tables = {
        asking.language: update_table(out, choices, asking, config=config)
        for out, choices, asking in plans
    }
    if len(tables) > 1:
        logger.info("%s", averages_report(list(tables.values())))
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
