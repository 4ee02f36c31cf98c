"""Ask models the questions of tasks, score the answers, and measure losses on sentences."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from lse_interp.analysis.losses import sentence_losses
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import LseError
from lse_interp.core.languages import PAPER_REFERENCE
from lse_interp.data.parallel import ParallelText, load_with_reference
from lse_interp.models.hooked import HookedModel
from lse_interp.tasks import harness
from lse_interp.tasks.kinds import Outcome, kind_of, require_documents
from lse_interp.tasks.questions import Questions, questions_of
from lse_interp.tasks.results import EvaluationTable, Measure, measures_of
from lse_interp.tasks.task import digest

__all__ = ["ask", "evaluate", "loss_measures", "measure_losses", "one_model", "sentences_for"]

_GENERAL = "eng"
_Scores = dict[Measure, Tensor]


def evaluate(
    models: Mapping[str, HookedModel],
    questions: Questions | None = None,
    *,
    language: str,
    parallel: ParallelText | str | None = None,
    methods: Mapping[str, tuple[str, int]] | None = None,
    batch_size: int = 32,
) -> EvaluationTable:
    """Ask several models the same questions.

    Args:
        models: Label -> model, with its tokenizer; the first is the base.
        questions: Task -> its questions; see `questions_of`. None takes the tasks of the base
            model's `defaults`.
        language: The language that the models were trained on, ISO 639-3.
        parallel: Sentences to measure losses on: a text, what `load_parallel` takes, or `none`.
            Losses are measured in `language`, in English, and in the other languages that the paper
            compares with, if the text has them. None takes that of `model.defaults`.
        methods: Label -> method and seed; by default the label and 0.
        batch_size: Questions per forward pass; changes results only by rounding.

    Raises:
        CorpusError: A task without questions, or with questions of another kind.
        LanguageError: `parallel` was loaded without `language`.
        LseError: No model; or lm-evaluation-harness is not installed.
    """
    if not models:
        raise LseError("There is no model to ask; give at least one.")
    defaults = next(iter(models.values())).defaults
    if questions is None:
        questions = questions_of(language, tasks=defaults.tasks)
    if not isinstance(parallel, ParallelText):
        parallel = sentences_for(language, parallel or defaults.parallel)
    parts = []
    for label, model in models.items():
        scores, _ = ask(model, questions, batch_size=batch_size)
        if parallel is not None:
            scores |= measure_losses(model, parallel, language=language, batch_size=batch_size)
        named = (methods or {}).get(label, (label, 0))
        parts.append(one_model(scores, model, label=label, method=named, language=language))
    return dataclasses.replace(EvaluationTable.concat(parts), provenance=provenance())


def sentences_for(
    language: str, spec: str | None, *, limit: int | None = None
) -> ParallelText | None:
    """Load the sentences whose loss is measured.

    Args:
        language: The target language, ISO 639-3.
        spec: See `load_parallel`; None or `none` loads none.
        limit: Take the first so many.

    Raises:
        LseError: See `load_parallel`.
    """
    if spec in (None, "none"):
        return None
    parallel = load_with_reference(spec, language)
    return parallel if limit is None else parallel.first(limit)


def ask(
    model: HookedModel, questions: Questions, *, batch_size: int
) -> tuple[_Scores, dict[str, list[Outcome]]]:
    """Ask a model questions.

    Returns:
        Measure -> a score per question, and the outcomes by the name of the task.

    Raises:
        CorpusError: A task without questions, or with questions of another kind.
    """
    for task, documents in questions.items():
        require_documents(task, documents)
    outcomes = harness.run_tasks(harness.as_lm(model, batch_size=batch_size), questions)
    scores: _Scores = {}
    for task, documents in questions.items():
        found, kind = outcomes[task.name], kind_of(task)
        values = {name: [outcome.scores[name] for outcome in found] for name in kind.metrics}
        if kind.score_controls is not None:
            texts = [outcome.output or "" for outcome in found]
            values |= kind.score_controls(task, documents, texts)
        for measure in measures_of(task, text=digest(documents)):
            scores[measure] = torch.tensor(values[measure.metric], dtype=torch.float64)
    return scores, outcomes


def measure_losses(
    model: HookedModel, parallel: ParallelText, *, language: str, batch_size: int
) -> _Scores:
    """Measure the loss of sentences, in nats, averaged over the languages of a measure."""
    scores: _Scores = {}
    for measure, codes in loss_measures(parallel, language).items():
        sentences = [sentence for code in codes for sentence in parallel.sentences[code]]
        losses = sentence_losses(model, sentences, batch_size=batch_size)
        scores[measure] = losses.view(len(codes), len(parallel)).mean(dim=0)
    return scores


def loss_measures(parallel: ParallelText, language: str) -> dict[Measure, tuple[str, ...]]:
    """Return what is measured on parallel sentences, and in which languages each.

    Raises:
        LanguageError: The sentences were loaded without `language`.
    """
    parallel.require([language])
    known = [code for code in PAPER_REFERENCE if code in parallel.languages]
    others = tuple(code for code in known if code not in (language, _GENERAL))
    groups: dict[str, tuple[tuple[str, ...], str]] = {language: ((language,), "Loss")}
    if _GENERAL in known:
        groups[_GENERAL] = ((_GENERAL,), "Loss in English")
    if others:
        plural = "s" if len(others) > 1 else ""
        groups["others"] = (others, f"Loss in {len(others)} other language{plural}")
    return {
        Measure(
            task=f"loss_{name}",
            row=row,
            label=f"Loss {name}",
            group="target" if name == language else "general",
            language=codes[0] if len(codes) == 1 else "mul",
            metric="loss",
            unit="nats",
            higher_is_better=False,
            headline=True,
            text=parallel.digest(codes),
        ): codes
        for name, (codes, row) in groups.items()
    }


def one_model(
    scores: Mapping[Measure, Tensor],
    model: HookedModel,
    *,
    label: str,
    method: tuple[str, int],
    language: str,
) -> EvaluationTable:
    """Put the scores of one model into a table."""
    return EvaluationTable(
        models=(label,),
        methods=(method[0],),
        seeds=(method[1],),
        fingerprints=(str(model.info.fingerprint),),
        language=language,
        measures=tuple(scores),
        scores=tuple(values[None] for values in scores.values()),
    )
