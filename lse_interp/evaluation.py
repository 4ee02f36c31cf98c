r"""Ask a model and its fine-tuned versions the same questions: what training gained, what it cost.

Tasks run in lm-evaluation-harness with the paper's prompts (appendix C.2) and generation settings
(C.3). Translations are scored by sentence BLEU, also by chrF, and by BLEU against the reference of
another question. Questions with options are scored by the letter in the generated answer, also by
the likeliest letter, and by how often there is no letter. Every model is compared with the base,
question by question: McNemar's exact test, or a paired bootstrap.

Source: paper, section 4.2, Tables 2 to 26, appendix C.

    python -m lse_interp.evaluation --langs mlt
    python -m lse_interp.evaluation --langs mlt isl --runs target random-layer
    python -m lse_interp.evaluation --langs mlt --tasks paper --data-dir benchmarks \
        --model meta-llama/Llama-3.1-8B --dtype bfloat16 --device cuda

writes `runs/<model>/evaluation/<lang>.safetensors`, and scores and answers of each model into
`runs/<model>/evaluation/models/`, in a folder named by the hash of its weights. Models that were
asked the same questions before stay in the table; other questions need a table of their own
(`--name`).
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, main_for
from lse_interp.core.errors import LseError
from lse_interp.core.languages import lookup
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
    `all` stands for every finished one; by default those on the whole text, without a budget."""
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
    """Ask every model, one in memory at a time; write the artefacts and report.

    No model is asked the same question twice: an interrupted run resumes with the next task. Models
    that are in the table but not in `runs` stay in it. If the base model was trained again, its
    table is made again.

    Returns:
        Language -> `EvaluationTable` of the models asked for.

    Raises:
        MismatchError: See `update_table`.
        LseError: See `questions_of`, `load_parallel` and `load_model`; or two runs of one method
            and seed, which cannot be averaged over languages.
        CorpusError: None of the tasks exists in a language; no folder at `data_dir`.
        ArtifactError: No such run, or an earlier artefact that cannot be read.
    """
    if Path(config.name).name != config.name or config.name in ("..", _MODELS):
        raise LseError(
            f"`name` must be the name of one folder, and not {_MODELS}, which holds the answers; "
            f"got {config.name!r}. Tables elsewhere need another --root."
        )
    codes = list(dict.fromkeys(lookup(code).code for code in config.langs))
    if config.task_files is not None:
        from lse_interp.tasks.benchmarks import tasks_of
        from lse_interp.tasks.yaml_export import write_task_files

        tasks = (task for code in codes for task in tasks_of(code, config.tasks or ("paper",)))
        write_task_files(
            config.task_files,
            list(dict.fromkeys(tasks)),
            data_dir=config.data_dir,
            prompt_style=config.prompt_style,
        )
        return {}
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.models.loading import read_defaults
    from lse_interp.subnetworks.find import model_choices
    from lse_interp.tasks.evaluation import sentences_for
    from lse_interp.tasks.harness import require_harness
    from lse_interp.tasks.questions import questions_of
    from lse_interp.tasks.table_update import Asking, choices_on_all_text, update_table
    from lse_interp.tasks.tables import averages_report, language_report

    require_harness()
    defaults = read_defaults(config.model.model)
    paths = RunPaths(config.root, config.model.model)
    tables = {}
    for code in codes:
        where: dict[str, Any] = {"paths": paths, "language": code}
        if config.runs is None:
            choices = choices_on_all_text(config.model, **where)
        else:
            choices = model_choices(config.model, runs=config.runs, **where)
        path = paths.evaluation(code)
        asking = Asking(
            language=code,
            questions=questions_of(
                code,
                tasks=config.tasks or defaults.tasks,
                data_dir=config.data_dir,
                prompt_style=config.prompt_style,
                limit=config.limit,
            ),
            parallel=sentences_for(code, config.parallel or defaults.parallel, limit=config.limit),
            batch_size=config.batch_size,
            answers=path.parent / _MODELS,
            overwrite=config.overwrite,
        )
        out = path.parent / config.name / path.name
        tables[code] = update_table(out, choices, asking, config=config)
        logger.info("%s", language_report(tables[code]))
        logger.info("wrote %s; the answers are in %s", out, asking.answers)
    if len(tables) > 1:
        logger.info("%s", averages_report(list(tables.values())))
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
