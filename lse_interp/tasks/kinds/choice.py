"""Choice: the prompt holds the options, and the model answers with a letter.

The letter is looked for in a generated text. The log-likelihoods of the letters are compared too,
each after a space: `" A"`, `" B"`, ... A text that names no option is a format failure.
"""

import string
from collections.abc import Callable, Sequence

from lse_interp.core.errors import LseError
from lse_interp.tasks.cells import Row, position_cell, text_cell, texts_cell
from lse_interp.tasks.kinds import KINDS, Comparison, Metric, TaskKind, Text, largest
from lse_interp.tasks.task import LETTERS, Document, Task

__all__ = ["choice_question", "format_options"]


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


def choice_question(
    ask: str, *, options: str | Sequence[str], answer: str, first: int
) -> Callable[..., Document]:
    """Return what writes the question of a row, for `Benchmark.question`.

    Args:
        ask: What the prompt says before the options, with columns in braces.
        options: The column of all options, or one column for each.
        answer: The column with the number of the right option.
        first: The number of the first option.
    """
    columns = [name for _, name, _, _ in string.Formatter().parse(ask) if name]

    def question(row: Row, *, where: str) -> Document:
        texts: Sequence[str]
        if isinstance(options, str):
            texts = texts_cell(row, options, where=where)
        else:
            texts = [text_cell(row, name, where=where) for name in options]
        asked = ask.format(**{name: text_cell(row, name, where=where) for name in columns})
        return Document(
            prompt=f"{asked}\n\n{format_options(texts)}\n\nAnswer:",
            choices=tuple(texts),
            answer=position_cell(row, answer, first=first, n_options=len(texts), where=where),
        )

    return question


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
