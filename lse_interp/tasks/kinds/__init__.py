"""Kinds of task, one file each: what a model is asked, and how its answers are scored.

A model can be asked for two things: a text that it generates, and the log-likelihoods of some
continuations of the prompt. A kind asks for one of them or for both. Another package adds a kind
through an entry point of the group `lse_interp.task_kinds`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.kinds import Kinds
from lse_interp.tasks.task import Document, Task

__all__ = [
    "KINDS",
    "Comparison",
    "Metric",
    "Outcome",
    "TaskKind",
    "Text",
    "Unit",
    "continuations",
    "kind_of",
    "largest",
    "require_documents",
    "score",
]

Unit = Literal["%", "BLEU", "chrF", "nats"]
"""Units of scores; those in percent are 0 or 100 per question."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a score means."""

    unit: Unit = "%"
    higher_is_better: bool = True
    headline: bool = False
    """Whether the paper's tables print it."""
    of_text: bool = True
    """Whether it scores the generated text; otherwise, log-likelihoods."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text is generated."""

    what: str
    """One sentence about it, for the head of a task file."""
    score: Callable[[Task, Document, str], Mapping[str, float]]
    """Score a text, by metric, from 0 to 100."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The log-likelihoods of continuations are compared."""

    what: str
    """One sentence about it, for the head of a task file."""
    continuations: Callable[[Document], tuple[str, ...]]
    """The texts that follow the prompt, each with the space it begins with."""
    score: Callable[[Document, Sequence[float]], Mapping[str, float]]
    """Score log-likelihoods in nats, by metric, from 0 to 100."""


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """A kind of task."""

    metrics: Mapping[str, Metric]
    """The scores of one answer."""
    text: Text | None = None
    comparison: Comparison | None = None
    has_reference: bool = False
    """Whether its documents have a reference; otherwise, they have options."""
    controls: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    """The scores that need the answers to all questions."""
    score_controls: (
        Callable[[Task, Sequence[Document], Sequence[str]], Mapping[str, list[float]]] | None
    ) = None
    """Score all generated texts: metric -> a score per question."""


KINDS: Kinds[TaskKind] = Kinds(
    "lse_interp.tasks.kinds", group="lse_interp.task_kinds", what="kind of task"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model's answer to one document.

    Raises:
        LseError: A score outside 0 to 100.
    """

    output: str | None
    """The text generated, up to the first stop string; None if nothing is generated."""
    scores: Mapping[str, float]
    """In percent, by metric."""

    def __post_init__(self) -> None:
        for name, value in self.scores.items():
            # sacrebleu returns 100.00000000000004 for a perfect sentence.
            if not -1e-9 <= value <= 100 + 1e-9:
                raise LseError(f"Scores are in percent, from 0 to 100; got {name} = {value}.")


def kind_of(task: Task) -> TaskKind:
    """Return the kind of a task.

    Raises:
        LseError: No such kind.
    """
    return KINDS[task.kind]


def continuations(task: Task, document: Document) -> tuple[str, ...]:
    """Return the texts whose log-likelihoods after the prompt are compared; none for some kinds."""
    comparison = kind_of(task).comparison
    return () if comparison is None else comparison.continuations(document)


def score(
    task: Task,
    document: Document,
    *,
    output: str | None = None,
    loglikelihoods: Sequence[float] | None = None,
) -> Outcome:
    """Score the answers to a document.

    Args:
        task: The task the document belongs to.
        document: The question.
        output: The text generated; None leaves its scores out.
        loglikelihoods: Of `continuations(task, document)`, in nats; None leaves their scores out.

    Raises:
        LseError: A log-likelihood is not a number.
    """
    kind = kind_of(task)
    scores: dict[str, float] = {}
    if output is not None and kind.text is not None:
        scores |= kind.text.score(task, document, output)
    if loglikelihoods is not None and kind.comparison is not None:
        if any(math.isnan(value) for value in loglikelihoods):
            raise LseError(
                f"A log-likelihood in {task.name} is not a number. The weights may be broken, or "
                "their dtype too narrow: try bfloat16 or float32."
            )
        scores |= kind.comparison.score(document, loglikelihoods)
    order = [name for name in kind.metrics if name in scores]
    return Outcome(output=output, scores={name: scores[name] for name in order})


def require_documents(task: Task, documents: Sequence[Document]) -> None:
    """Refuse a task without questions, or with questions of another kind.

    Raises:
        CorpusError: No document, or one that does not fit the kind of the task.
    """
    if not documents:
        raise CorpusError(f"The task {task.name} has no question; give at least one.")
    wanted = kind_of(task).has_reference
    for at, document in enumerate(documents, start=1):
        if (document.reference is not None) != wanted:
            raise CorpusError(
                f"Question {at} of {task.name}, a task of the kind `{task.kind}`, should have "
                f"{'a reference' if wanted else 'options'}."
            )


def largest(values: Sequence[float]) -> int:
    """Return the position of the largest value, the first of equal ones."""
    return max(range(len(values)), key=values.__getitem__)
