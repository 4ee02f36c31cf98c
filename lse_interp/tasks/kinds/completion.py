"""Completion: options continue the prompt, and the likeliest is taken.

Options are used as they are written, with the space they begin with or without one.
`normalised_accuracy` divides a log-likelihood by the UTF-8 bytes of the option, without the space
around it.
"""

from collections.abc import Sequence

from lse_interp.tasks.kinds import KINDS, Comparison, Metric, TaskKind, largest
from lse_interp.tasks.task import Document


def _options(document: Document) -> tuple[str, ...]:
    return document.choices


def _compare(document: Document, loglikelihoods: Sequence[float]) -> dict[str, float]:
    per_byte = [
        value / max(1, len(option.strip().encode()))
        for value, option in zip(loglikelihoods, document.choices, strict=True)
    ]
    return {
        "loglikelihood_accuracy": 100.0 * (largest(loglikelihoods) == document.answer),
        "normalised_accuracy": 100.0 * (largest(per_byte) == document.answer),
    }


KINDS.register("completion")(
    TaskKind(
        metrics={
            "loglikelihood_accuracy": Metric(headline=True, of_text=False),
            "normalised_accuracy": Metric(of_text=False),
        },
        comparison=Comparison(
            "The log-likelihoods of the options are compared; percent.", _options, _compare
        ),
    )
)
