r"""Ask a model and its fine-tuned versions the same questions: what training gained, what it cost.

Tasks run in lm-evaluation-harness with the paper's prompts (appendix C.2) and generation settings
(C.3). Translations are scored by sentence BLEU, beside it chrF and BLEU against the reference of
another question; questions with options by the letter in the generated answer, beside it by the
likeliest letter and by how often there is no letter at all. Every model is compared with the base,
question by question: McNemar's exact test, or a paired bootstrap.

Source: paper, section 4.2, Tables 2 to 26, appendix C.

    python -m lse_interp.evaluation --lang mlt
    python -m lse_interp.evaluation --lang mlt isl --runs target random-layer
    python -m lse_interp.evaluation --lang mlt --tasks paper --data-dir benchmarks \
        --model meta-llama/Llama-3.1-8B --dtype bfloat16 --device cuda

writes `runs/<model>/evaluation/<lang>.safetensors`, and scores and answers of each model into
`runs/<model>/evaluation/models/`, in a folder named by the hash of its weights. Models asked
before, the same questions, stay in the table; other questions need a table of their own (`--name`).
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for, progress
from lse_interp.tasks.prompts import Style


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluate a model and its fine-tuning runs on tasks of a language and of English."""

    lang: tuple[str, ...]
    """Languages, e.g. `mlt`; the runs of each are evaluated on its own tasks."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    runs: tuple[str, ...] | None = None
    """Runs: names under `root/<model>/finetune/<lang>/` or folders, each `path` or `label=path`.
    `all` stands for every finished one; by default those on the whole text, without a budget."""
    tasks: tuple[str, ...] | None = None
    """`embedded`, `paper`, or names such as `topics` (embedded), `flores`, `belebele`, `arc_easy`.
    By default `embedded` for the embedded model, `paper` for others."""
    data_dir: Path | None = None
    """Folder with local copies of the benchmarks, instead of the hub; see
    `lse_interp.tasks.benchmarks`."""
    parallel: str | None = None
    """Sentences whose loss is measured beside, in the language and those of the paper's nine that
    are there: `embedded`, `flores`, `ntrex:<folder>`, a folder, or `none`. By default `embedded`
    for the embedded model, `none` for others."""
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
    """Folder under `root/<model>/evaluation/` for the tables, to keep several beside each other."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/evaluation/`."""
    overwrite: bool = False
    """Ask again even if the scores are there; the table is made anew."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)

import pandas as pd
import torch
from torch import Tensor

from lse_interp.analysis.losses import sentence_losses
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.model_table import of_same_base, union
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.languages import PAPER_REFERENCE, lookup
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.models import HookedModel
from lse_interp.subnetworks.find import finished_runs, model_choices, require_runs_of
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.tasks.answer_cache import Asked
from lse_interp.tasks.base import Document, digest, require_documents
from lse_interp.tasks.measures import loss_measure, measures
from lse_interp.tasks.questions import Questions, named_tasks, questions_of
from lse_interp.tasks.registry import benchmark_tasks
from lse_interp.tasks.results import EvaluationTable, Measure
from lse_interp.tasks.tables import average_scores, language_scores, to_text
from lse_interp.tasks.union import require_distinct_methods, require_same_questions
from lse_interp.tasks.yaml_export import write_task_files

if TYPE_CHECKING:
    from lse_interp.tasks.answers import Outcome

__all__ = [
    "Config",
    "EvaluationTable",
    "Questions",
    "evaluate",
    "main",
    "questions_of",
    "run",
]

logger = logging.getLogger(__name__)

_GENERAL = "eng"
_MODELS = "models"
_Scores = dict[Measure, Tensor]
_Outcomes = dict[str, list["Outcome"]]


def evaluate(
    models: Mapping[str, HookedModel],
    questions: Questions,
    *,
    language: str,
    parallel: ParallelText | None = None,
    methods: Mapping[str, tuple[str, int]] | None = None,
    batch_size: int = 32,
) -> EvaluationTable:
    """Ask several models the same questions.

    Args:
        models: Label -> model, with its tokenizer; the first is the base.
        questions: Task -> its questions; see `questions_of`.
        language: The language that the models were trained on, ISO 639-3.
        parallel: Sentences whose loss is measured beside, in `language`, and in English and the
            other languages the paper compares with as far as they are there.
        methods: Label -> method and seed; by default the label and 0.
        batch_size: Questions per forward pass; changes results by rounding alone.

    Raises:
        CorpusError: A task without questions, or with questions of another kind.
        LanguageError: `parallel` was loaded without `language`.
        LseError: No model; or lm-evaluation-harness is not installed.
    """
    if not models:
        raise LseError("There is no model to ask; give at least one.")
    parts = []
    for label, model in models.items():
        scores, _ = _ask(model, questions, batch_size=batch_size)
        if parallel is not None:
            scores |= _losses(model, parallel, language=language, batch_size=batch_size)
        named = (methods or {}).get(label, (label, 0))
        parts.append(_table(scores, model, label=label, method=named, language=language))
    return dataclasses.replace(EvaluationTable.concat(parts), provenance=provenance())


def run(config: Config) -> dict[str, EvaluationTable]:
    """Ask every model, one in memory at a time; write the artefacts and report.

    What a model was asked before, word for word, is not asked again: a run that breaks off goes on
    with the next task. Models that are in the table but not in `runs` stay in it, and no answer is
    lost by another table. Where the base model was trained again, the table is made anew.

    Returns:
        Language -> the table of the models asked for.

    Raises:
        MismatchError: A run of another base model; or a finished table of other questions, or that
            could not be averaged with a run asked for beside one in it.
        LseError: See `evaluate`, `questions_of`, `load_parallel` and `load_model`; or two runs of
            one method and seed, which cannot be averaged over languages.
        CorpusError: No task that is there in a language; no folder at `data_dir`.
        ArtifactError: No such run, or an earlier artefact that cannot be read.
    """
    _require_options(config)
    codes = list(dict.fromkeys(lookup(code).code for code in config.lang))
    if config.task_files is not None:
        _write_task_files(config, codes, config.task_files)
        return {}
    from lse_interp.tasks.harness import require_harness

    require_harness()
    tables = {code: _run_language(config, code) for code in codes}
    if len(tables) > 1:
        frame = pd.concat([table.to_frame() for table in tables.values()])
        logger.info(
            "Means over %d languages:\n%s",
            len(tables),
            to_text(average_scores(frame), name="row", column="method"),
        )
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _run_language(config: Config, language: str) -> EvaluationTable:
    paths = RunPaths(config.root, config.model.model)
    runs = _on_the_whole_text(paths, language) if config.runs is None else config.runs
    if not runs:
        logger.info("no finished run of %s: the base model alone is asked", language)
    choices = model_choices(config.model, runs=runs, paths=paths, language=language)
    questions, parallel = _texts(config, language)
    path = paths.evaluation(language)
    out = path.parent / config.name / path.name
    parts: list[EvaluationTable] = []
    with locked(out, what=f"the scores of {language}"):
        earlier = _earlier(config, out, _measures(questions, parallel, language))
        for choice in progress(choices, desc=language, unit="model"):
            model = choice.load()
            if not parts:
                require_runs_of(model.info, choices)
                earlier = of_same_base(earlier, model.info.fingerprint, path=out, config=config)
                if earlier is not None:
                    asked = {other.label: (other.method, other.seed) for other in choices}
                    require_distinct_methods(earlier, asked, path=out)
            named = (choice.method, choice.seed)
            parts.append(
                _evaluate_one(config, model, questions, parallel, language, choice.label, named)
            )
            # Two large models need not fit side by side.
            del model
        about = provenance(config)
        table = dataclasses.replace(EvaluationTable.concat(parts), provenance=about)
        dataclasses.replace(union(earlier, table), provenance=about).save(out)
    rows = language_scores(table.to_frame())
    logger.info(
        "Scores of %s (mean ± standard error; * p < 0.05 against the base):\n%s",
        lookup(language).name,
        to_text(rows, name="label", column="model"),
    )
    logger.info("wrote %s; answers lie in %s", out, path.parent / _MODELS)
    return table


def _require_options(config: Config) -> None:
    if config.limit is not None and config.limit < 1:
        raise LseError(f"`limit` must be at least 1; got {config.limit}.")
    if config.data_dir is not None and not config.data_dir.is_dir():
        raise CorpusError(
            f"There is no folder {config.data_dir} to read benchmarks from. Correct --data-dir, or "
            "leave it out to read them from the hub."
        )
    if Path(config.name).name != config.name or config.name in ("..", _MODELS):
        raise LseError(
            f"`name` must be the name of one folder, and not {_MODELS}, which holds the answers; "
            f"got {config.name!r}. Tables elsewhere need another --root."
        )


def _earlier(config: Config, out: Path, asked: Sequence[Measure]) -> EvaluationTable | None:
    if config.overwrite or not out.exists():
        return None
    return require_same_questions(EvaluationTable.load(out), asked, path=out, config=config)


def _on_the_whole_text(paths: RunPaths, language: str) -> tuple[str, ...]:
    """Name the finished runs that had no token budget: one of each method and seed."""
    found = finished_runs(paths, language)
    return tuple(
        name
        for name, folder in found.items()
        if FinetuneRun.load(folder).settings.get("tokens") is None
    )


def _evaluate_one(
    config: Config,
    model: HookedModel,
    questions: Questions,
    parallel: ParallelText | None,
    language: str,
    label: str,
    method: tuple[str, int],
) -> EvaluationTable:
    """Ask one model what it was not asked before, and keep the answers."""
    folder = RunPaths(config.root, config.model.model).evaluation(language).parent / _MODELS
    asked = Asked(folder, str(model.info.fingerprint), fresh=config.overwrite)
    scores: _Scores = {}
    for task, documents in questions.items():
        wanted = measures(task, text=digest(documents))
        known = asked.find(wanted)
        if known is None:
            known, outcomes = _ask(model, {task: documents}, batch_size=config.batch_size)
            asked.write_answers(task.name, _answers(documents, outcomes[task.name]))
            asked.add(_table(known, model, label=label, method=method, language=language))
        scores |= known
    if parallel is not None:
        wanted = tuple(_loss_measures(parallel, language))
        known = asked.find(wanted)
        if known is None:
            known = _losses(model, parallel, language=language, batch_size=config.batch_size)
            asked.add(_table(known, model, label=label, method=method, language=language))
        scores |= known
    return _table(scores, model, label=label, method=method, language=language)


def _write_task_files(config: Config, codes: Sequence[str], folder: Path) -> None:
    _, names = named_tasks(config.tasks or ("paper",))
    tasks = {task: None for code in codes for task in benchmark_tasks(code, names=names)}
    written = write_task_files(
        folder, list(tasks), data_dir=config.data_dir, prompt_style=config.prompt_style
    )
    logger.info(
        "wrote %d files; run them with\n  lm-eval run --include_path %s --tasks lse_interp "
        "--model vllm --model_args pretrained=...",
        len(written),
        folder,
    )


def _texts(config: Config, language: str) -> tuple[Questions, ParallelText | None]:
    """Read the questions, and the sentences whose loss is measured."""
    embedded = config.model.model == "embedded"
    questions = questions_of(
        language,
        tasks=config.tasks or (("embedded",) if embedded else ("paper",)),
        data_dir=config.data_dir,
        prompt_style=config.prompt_style,
        limit=config.limit,
    )
    spec = config.parallel or ("embedded" if embedded else "none")
    if spec == "none" and not questions:
        raise CorpusError(
            f"None of the tasks {', '.join(config.tasks or ())} is there in "
            f"{lookup(language).name}. Name other tasks, or measure losses with --parallel."
        )
    if spec == "none":
        return questions, None
    others = tuple(code for code in PAPER_REFERENCE if code != language)
    parallel = load_parallel(spec, languages=(language,), optional=others)
    return questions, parallel if config.limit is None else parallel.first(config.limit)


def _measures(
    questions: Questions, parallel: ParallelText | None, language: str
) -> tuple[Measure, ...]:
    asked = [m for task, found in questions.items() for m in measures(task, text=digest(found))]
    return (*asked, *(_loss_measures(parallel, language) if parallel is not None else ()))


def _ask(model: HookedModel, questions: Questions, *, batch_size: int) -> tuple[_Scores, _Outcomes]:
    from lse_interp.tasks.harness import as_lm, run_tasks

    for task, documents in questions.items():
        require_documents(task, documents)
    outcomes = run_tasks(as_lm(model, batch_size=batch_size), questions)
    scores = {
        measure: torch.tensor(_values(measure, documents, outcomes[task.name]), dtype=torch.float64)
        for task, documents in questions.items()
        for measure in measures(task, text=digest(documents))
    }
    return scores, outcomes


def _values(
    measure: Measure, documents: Sequence[Document], outcomes: Sequence["Outcome"]
) -> list[float]:
    if measure.metric != "bleu_other":
        return [outcome.scores[measure.metric] for outcome in outcomes]
    from lse_interp.tasks.metrics import sentence_bleu

    # Half the questions away, so that neighbours from one passage do not meet.
    other = len(documents) // 2
    return [
        sentence_bleu(
            outcome.output or "",
            documents[(at + other) % len(documents)].reference or "",
            language=measure.language,
        )
        for at, outcome in enumerate(outcomes)
    ]


def _losses(
    model: HookedModel, parallel: ParallelText, *, language: str, batch_size: int
) -> _Scores:
    scores: _Scores = {}
    for measure, codes in _loss_measures(parallel, language).items():
        sentences = [sentence for code in codes for sentence in parallel.sentences[code]]
        losses = sentence_losses(model, sentences, batch_size=batch_size)
        scores[measure] = losses.view(len(codes), len(parallel)).mean(dim=0)
    return scores


def _loss_measures(parallel: ParallelText, language: str) -> dict[Measure, tuple[str, ...]]:
    """Return what is measured on parallel sentences, and in which languages each."""
    parallel.require([language])
    there = [code for code in PAPER_REFERENCE if code in parallel.languages]
    others = tuple(code for code in there if code not in (language, _GENERAL))
    groups: dict[str, tuple[tuple[str, ...], str]] = {language: ((language,), "Loss")}
    if _GENERAL in there:
        groups[_GENERAL] = ((_GENERAL,), "Loss in English")
    if others:
        plural = "s" if len(others) > 1 else ""
        groups["others"] = (others, f"Loss in {len(others)} other language{plural}")
    return {
        loss_measure(
            name,
            row=row,
            language=codes[0] if len(codes) == 1 else "mul",
            general=name != language,
            text=parallel.digest(codes),
        ): codes
        for name, (codes, row) in groups.items()
    }


def _answers(
    documents: Sequence[Document], outcomes: Sequence["Outcome"]
) -> list[dict[str, object]]:
    return [
        {**dataclasses.asdict(document), "output": outcome.output, "scores": dict(outcome.scores)}
        for document, outcome in zip(documents, outcomes, strict=True)
    ]


def _table(
    scores: _Scores, model: HookedModel, *, label: str, method: tuple[str, int], language: str
) -> EvaluationTable:
    return EvaluationTable(
        models=(label,),
        methods=(method[0],),
        seeds=(method[1],),
        fingerprints=(str(model.info.fingerprint),),
        language=language,
        measures=tuple(scores),
        scores=tuple(values[None] for values in scores.values()),
    )


if __name__ == "__main__":
    raise SystemExit(main())
