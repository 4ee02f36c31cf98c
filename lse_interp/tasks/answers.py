"""What a model is asked about a document, and how its answers are scored."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lse_interp.core.errors import LseError
from lse_interp.tasks.base import Document, Task
from lse_interp.tasks.prompts import GENERATION
from lse_interp.tasks.results import Unit

__all__ = [
    "METRICS",
    "Metric",
    "Outcome",
    "continuations",
    "generation_settings",
    "is_generated",
    "is_scored_by_likelihood",
    "score",
]


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a score means."""

    unit: Unit = "%"
    higher_is_better: bool = True
    headline: bool = False
    """Whether the paper's tables print it."""


METRICS: Mapping[str, Mapping[str, Metric]] = {
    "translation": {
        "bleu": Metric("BLEU", headline=True),
        "chrf": Metric("chrF"),
        "format_failure": Metric(higher_is_better=False),
    },
    "choice": {
        "letter_accuracy": Metric(headline=True),
        "loglikelihood_accuracy": Metric(),
        "format_failure": Metric(higher_is_better=False),
    },
    "completion": {
        "loglikelihood_accuracy": Metric(headline=True),
        "normalised_accuracy": Metric(),
    },
}
"""Scores of each kind of task, all from 0 to 100."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model's answer to one document.

    Raises:
        LseError: A score outside 0 to 100.
    """

    output: str | None
    """The text generated, up to the first stop string; None where nothing is generated."""
    scores: Mapping[str, float]
    """In percent, by metric; see `METRICS`."""

    def __post_init__(self) -> None:
        for name, value in self.scores.items():
            # sacrebleu returns 100.00000000000004 for a perfect sentence.
            if not -1e-9 <= value <= 100 + 1e-9:
                raise LseError(f"Scores are in percent, from 0 to 100; got {name} = {value}.")


def is_generated(task: Task) -> bool:
    """Return whether the task has the model write text."""
    return task.kind in ("translation", "choice")


def is_scored_by_likelihood(task: Task) -> bool:
    """Return whether the task compares the log-likelihoods of options."""
    return task.kind in ("choice", "completion")


def generation_settings() -> dict[str, Any]:
    """Return how text is generated, in the terms of lm-evaluation-harness.

    Source: paper, appendix C.3.
    """
    return {
        "do_sample": False,
        "temperature": GENERATION.temperature,
        "max_gen_toks": GENERATION.max_tokens,
        "until": list(GENERATION.stops),
        "repetition_penalty": GENERATION.repetition_penalty,
    }


def continuations(task: Task, document: Document) -> tuple[str, ...]:
    """Return the texts whose log-likelihoods after the prompt are compared.

    The letters of a `choice`, each after a space: `" A"`, `" B"`, ... The options of a
    `completion` as they stand, with the space they begin with, or none where the language or the
    place in a word wants none.
    """
    if task.kind == "choice":
        return tuple(f" {letter}" for letter in document.letters)
    return document.choices if task.kind == "completion" else ()


def score(
    task: Task,
    document: Document,
    *,
    output: str | None = None,
    loglikelihoods: Sequence[float] | None = None,
) -> Outcome:
    """Score the answers to a document; see `METRICS` for the scores of each kind of task.

    An empty text is a format failure with BLEU and chrF 0, and so is a text that names no option.
    The likeliest option is the first of those that are equally likely. `normalised_accuracy`
    divides by the UTF-8 bytes of the option, without the space around it.

    Args:
        task: The task the document belongs to.
        document: The question.
        output: The text generated; None leaves its scores out.
        loglikelihoods: Of `continuations(task, document)`, in nats; None leaves their scores out.

    Raises:
        LseError: A log-likelihood is not a number.
    """
    scores: dict[str, float] = {}
    if output is not None and task.kind == "translation":
        scores |= _translation_scores(task, document, output)
    elif output is not None:
        scores |= _letter_scores(document, output)
    if loglikelihoods is not None:
        scores |= _likelihood_scores(task, document, loglikelihoods)
    order = [name for name in METRICS[task.kind] if name in scores]
    return Outcome(output=output, scores={name: scores[name] for name in order})


def _translation_scores(task: Task, document: Document, output: str) -> dict[str, float]:
    from lse_interp.tasks.metrics import chrf, sentence_bleu

    text = output.strip()
    if not text:
        return {"bleu": 0.0, "chrf": 0.0, "format_failure": 100.0}
    assert document.reference is not None
    return {
        "bleu": sentence_bleu(text, document.reference, language=task.language),
        "chrf": chrf(text, document.reference),
        "format_failure": 0.0,
    }


def _letter_scores(document: Document, output: str) -> dict[str, float]:
    from lse_interp.tasks.metrics import extract_letter

    assert document.answer is not None
    letter = extract_letter(output, document.letters)
    return {
        "letter_accuracy": 100.0 * (letter == document.letters[document.answer]),
        "format_failure": 100.0 * (letter is None),
    }


def _likelihood_scores(
    task: Task, document: Document, loglikelihoods: Sequence[float]
) -> dict[str, float]:
    if any(math.isnan(value) for value in loglikelihoods):
        raise LseError(
            f"A log-likelihood in {task.name} is not a number. The weights may be broken, or "
            "their dtype too narrow: try bfloat16 or float32."
        )
    scores = {"loglikelihood_accuracy": 100.0 * (_largest(loglikelihoods) == document.answer)}
    if task.kind == "completion":
        per_byte = [
            value / max(1, len(option.strip().encode()))
            for value, option in zip(loglikelihoods, document.choices, strict=True)
        ]
        scores["normalised_accuracy"] = 100.0 * (_largest(per_byte) == document.answer)
    return scores


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
