"""What is counted per kind of task, and which of it the paper's tables print."""

from lse_interp.tasks.answers import METRICS, Metric
from lse_interp.tasks.base import Task
from lse_interp.tasks.results import Measure

__all__ = ["loss_measure", "measures"]

_CONTROL = {"bleu_other": Metric("BLEU")}


def measures(task: Task, *, text: str) -> tuple[Measure, ...]:
    """List what is counted in a task.

    `bleu_other` is a control: BLEU of each output against the reference of another question. What
    `bleu` does not have above it is no translation.

    Args:
        task: The task.
        text: Hash of its questions; see `tasks.digest`.

    >>> task = Task("arc_easy", "ARC EASY", "arc easy", "general", "choice", "eng")
    >>> [measure.metric for measure in measures(task, text="")]
    ['letter_accuracy', 'loglikelihood_accuracy', 'format_failure']
    """
    metrics = dict(METRICS[task.kind]) | (_CONTROL if task.kind == "translation" else {})
    return tuple(
        Measure(
            task=task.name,
            row=task.row,
            label=task.label,
            group=task.group,
            language=task.language,
            metric=name,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            headline=metric.headline,
            text=text,
        )
        for name, metric in metrics.items()
    )


def loss_measure(name: str, *, row: str, language: str, general: bool, text: str) -> Measure:
    """Describe the loss on sentences, in nats per sentence.

    Args:
        name: What the sentences are, e.g. `mlt` or `others`.
        row: Its row in a table.
        language: Language of the sentences.
        general: Whether it stands for general capabilities.
        text: Hash of the sentences.
    """
    return Measure(
        task=f"loss_{name}",
        row=row,
        label=f"Loss {name}",
        group="general" if general else "target",
        language=language,
        metric="loss",
        unit="nats",
        higher_is_better=False,
        headline=True,
        text=text,
    )
