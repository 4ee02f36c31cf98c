"""Choice: the prompt holds the options, and the model answers with a letter.

The letter is looked for in a generated text. The log-likelihoods of the letters are compared too,
each after a space: `" A"`, `" B"`, ... A text that names no option is a format failure.
"""

from collections.abc import Sequence

from lse_interp.core.errors import LseError
from lse_interp.tasks.kinds import KINDS, Comparison, Metric, TaskKind, Text, largest
from lse_interp.tasks.task import LETTERS, Document, Task

__all__ = ["format_options"]


def format_options(options: Sequence[str]) -> str:
    r"""Write the options one a line, as `A) text`.

    The paper prints this form for PIQA, Winogrande and the topics; it is used for its `{options}`
    too. Source: paper, appendix C.2.

    Raises:
        LseError: No option, or more than there are letters.

    >>> format_options(["yes", "no"])
    'A) yes\nB) no'
    """
    if not 1 <= len(options) <= len(LETTERS):
        raise LseError(f"A question has 1 to {len(LETTERS)} options; got {len(options)}.")
    return "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))


def _letters(document: Document) -> tuple[str, ...]:
    return tuple(f" {letter}" for letter in document.letters)


def _score(task: Task, document: Document, output: str) -> dict[str, float]:
    from lse_interp.tasks.metrics import extract_letter

    assert document.answer is not None
    letter = extract_letter(output, document.letters)
    return {
        "letter_accuracy": 100.0 * (letter == document.letters[document.answer]),
        "format_failure": 100.0 * (letter is None),
    }


def _compare(document: Document, loglikelihoods: Sequence[float]) -> dict[str, float]:
    return {"loglikelihood_accuracy": 100.0 * (largest(loglikelihoods) == document.answer)}


KINDS.register("choice")(
    TaskKind(
        metrics={
            "letter_accuracy": Metric(headline=True),
            "loglikelihood_accuracy": Metric(of_text=False),
            "format_failure": Metric(higher_is_better=False),
        },
        text=Text("An answer is generated and its letter looked for; percent.", _score),
        comparison=Comparison(
            "The log-likelihoods of the letters are compared; percent.", _letters, _compare
        ),
    )
)
