"""Ask the models of one language only new questions, and write their table.

A finished table of other questions is refused. Models of the table that are not named now stay in
it.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.reuse import changed_options
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import CorpusError, MismatchError
from lse_interp.core.languages import lookup
from lse_interp.data.parallel import ParallelText
from lse_interp.models.hooked import HookedModel
from lse_interp.models.tokenization import find_prefix
from lse_interp.subnetworks.find import ModelChoice, finished_runs, model_choices
from lse_interp.subnetworks.measure_each import measure_each
from lse_interp.tasks.answer_cache import AnswerCache
from lse_interp.tasks.evaluation import ask, loss_measures, measure_losses, one_model
from lse_interp.tasks.questions import Questions
from lse_interp.tasks.results import EvaluationTable, Measure, measures_of
from lse_interp.tasks.tables import language_report
from lse_interp.tasks.task import digest

__all__ = ["Asking", "choose_models", "load_table", "update_table"]

logger = logging.getLogger(__name__)

_OPTIONS = ("tasks", "limit", "prompt_style", "data_dir", "parallel")
_REMEDY = (
    "Pass --name for a table of its own; answers are kept by model and question, and are not asked "
    "for again. --overwrite replaces the table, and asks every question again."
)


@dataclasses.dataclass(frozen=True)
class Asking:
    """The questions for the models of one language.

    Raises:
        CorpusError: Nothing is asked or measured.
    """

    language: str
    """ISO 639-3."""
    questions: Questions
    parallel: ParallelText | None
    """Sentences whose loss is measured."""
    batch_size: int
    answers: Path
    """Folder of the answers, one folder per model in it."""
    overwrite: bool = False
    """Ask every question again."""

    def __post_init__(self) -> None:
        if not self.questions and self.parallel is None:
            raise CorpusError(
                f"None of the tasks exists in {lookup(self.language).name}. Name other tasks, or "
                "measure losses with --parallel."
            )

    def measures(self) -> tuple[Measure, ...]:
        """List everything that is measured."""
        found = [
            measure
            for task, documents in self.questions.items()
            for measure in measures_of(task, text=digest(documents))
        ]
        if self.parallel is not None:
            found += loss_measures(self.parallel, self.language)
        return tuple(found)


def update_table(
    path: Path, choices: Sequence[ModelChoice], asking: Asking, *, config: Any
) -> EvaluationTable:
    """Ask every model, one in memory at a time, write the table and report.

    Args:
        path: The table.
        choices: The models, the base first.
        asking: What they are asked.
        config: The configuration of the command, for provenance and errors.

    Returns:
        The table of the models in `choices`.

    Raises:
        MismatchError: A run of another base model; or a finished table of other questions, or with
            another model with the method and seed of one in `choices`.
        ArtifactError: A table or a run that cannot be read.
    """
    table = measure_each(
        choices,
        path,
        what=f"the scores of {asking.language}",
        load=lambda path: load_table(path, asking, config=config),
        accept=lambda earlier: _require_distinct_methods(earlier, choices, path=path),
        # Answers are kept by question, and by what the model reads before text.
        by_weights=False,
        measure=lambda choice, model: _ask_one(model, asking, choice),
        config=config,
    )
    logger.info("%s", language_report(table))
    logger.info("the answers are in %s", asking.answers)
    return table


def load_table(path: Path, asking: Asking, *, config: Any) -> EvaluationTable:
    """Read a finished table of these questions.

    Raises:
        MismatchError: A finished table of other questions.
        ArtifactError: A table that cannot be read.
    """
    table = EvaluationTable.load(path)
    return _require_same_questions(table, asking.measures(), path=path, config=config)


def choose_models(
    base: ModelArgs, *, runs: Sequence[str] | None, paths: RunPaths, language: str
) -> tuple[ModelChoice, ...]:
    """Return the base model and runs of it; None takes the finished ones without a token budget.

    Raises:
        ArtifactError: See `model_choices`.
    """
    if runs is not None:
        return model_choices(base, runs=runs, paths=paths, language=language)
    names = tuple(finished_runs(paths, language))
    choices = model_choices(base, runs=names, paths=paths, language=language)
    kept = [c for c in choices if c.run is not None and c.run.settings.get("tokens") is None]
    if kept:
        return choices[0], *kept
    logger.info("no finished run of %s: the base model alone is asked", language)
    return model_choices(base, paths=paths, language=language)


def _ask_one(model: HookedModel, asking: Asking, choice: ModelChoice) -> EvaluationTable:
    """Ask one model the questions it has not answered yet, and keep the answers."""
    folder = asking.answers
    if model.prefix != find_prefix(model.tokenizer, model.hf.config, name=model.name):
        folder /= f"bos-{'-'.join(map(str, model.prefix)) or 'none'}"
    cache = AnswerCache(folder, str(model.info.fingerprint), fresh=asking.overwrite)
    about: dict[str, Any] = {
        "label": choice.label,
        "method": (choice.method, choice.seed),
        "language": asking.language,
    }
    scores: dict[Measure, Tensor] = {}
    for task, documents in asking.questions.items():
        known = cache.find(measures_of(task, text=digest(documents)))
        if known is None:
            known, outcomes = ask(model, {task: documents}, batch_size=asking.batch_size)
            pairs = zip(documents, outcomes[task.name], strict=True)
            rows = [{**asdict(document), **asdict(outcome)} for document, outcome in pairs]
            cache.write_answers(task.name, rows)
            cache.add(one_model(known, model, **about))
        scores |= known
    if asking.parallel is not None:
        known = cache.find(tuple(loss_measures(asking.parallel, asking.language)))
        if known is None:
            known = measure_losses(
                model, asking.parallel, language=asking.language, batch_size=asking.batch_size
            )
            cache.add(one_model(known, model, **about))
        scores |= known
    return one_model(scores, model, **about)


def _require_same_questions(
    table: EvaluationTable, measures: Sequence[Measure], *, path: Path, config: Any
) -> EvaluationTable:
    """Return a finished table, its measures in the given order; names of rows may differ.

    Raises:
        MismatchError: The table holds other tasks, questions or metrics.
    """
    found = {measure.key: at for at, measure in enumerate(table.measures)}
    asked = {measure.key: measure for measure in measures}
    if found.keys() != asked.keys():
        options = changed_options(table.provenance.get("config"), config, _OPTIONS)
        raise MismatchError(
            f"{path} is finished, with other questions: {_changed(table.measures, measures)}"
            f"{f' ({options})' if options else ''}. {_REMEDY}"
        )
    scores = tuple(table.scores[found[key]] for key in asked)
    return dataclasses.replace(table, measures=tuple(asked.values()), scores=scores)


def _require_distinct_methods(
    table: EvaluationTable, choices: Sequence[ModelChoice], *, path: Path
) -> None:
    """Refuse to add a model of the same method and seed as another: they cannot be averaged."""
    asked = [choice.label for choice in choices]
    rows = zip(table.models[1:], table.methods[1:], table.seeds[1:], strict=True)
    kept = {(method, seed): label for label, method, seed in rows if label not in asked}
    for choice in choices[1:]:
        label, method, seed = choice.label, choice.method, choice.seed
        if (method, seed) in kept:
            raise MismatchError(
                f"{path} holds {kept[method, seed]}, of method {method} and seed {seed} like "
                f"{label}, and two of them cannot be averaged over languages. Pass --name for a "
                "table of its own, or name both with --runs."
            )


def _changed(found: Sequence[Measure], asked: Sequence[Measure]) -> str:
    """Say which tasks differ: only in the table, only requested, or with other questions."""
    before, now = (
        {m.task: {other.key for other in measures if other.task == m.task} for m in measures}
        for measures in (found, asked)
    )
    groups = {
        "it also holds": [task for task in before if task not in now],
        "it lacks": [task for task in now if task not in before],
        "other questions in": [t for t in before if t in now and before[t] != now[t]],
    }
    return "; ".join(f"{what} {', '.join(tasks)}" for what, tasks in groups.items() if tasks)
