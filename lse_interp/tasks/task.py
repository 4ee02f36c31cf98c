"""Task, Document: what a task is, and one of its questions."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Literal

from lse_interp.core.errors import LseError

__all__ = ["LETTERS", "Document", "Task", "digest"]

LETTERS = "ABCDEFGHIJ"
"""The letters that name options, in their order."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A benchmark in one language."""

    name: str
    """Unique and fit for a file name, e.g. `flores_mlt_eng`, `belebele_mlt`, `arc_easy`."""
    row: str
    """The row it fills in a table over languages, e.g. `FLORES TG→EN`."""
    label: str
    """The row it fills in the table of one language, e.g. `FLORES mlt→eng`."""
    group: Literal["target", "general"]
    """Target-language performance or general capabilities. Source: paper, section 4.2."""
    kind: str
    """How it is asked and scored: a name in `tasks.kinds`."""
    language: str
    """Language of the text that is judged, ISO 639-3; of a translation, the target."""
    benchmark: str | None = None
    """The benchmark of its questions: a name in `tasks.benchmarks`."""
    source: str | None = None
    """Language that is translated from, ISO 639-3."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One question.

    Raises:
        LseError: Neither a reference nor options, both, or an answer that is none of the options.
    """

    prompt: str
    """What the model is given; it ends without a space."""
    reference: str | None = None
    """The translation wanted."""
    choices: tuple[str, ...] = ()
    """The texts of the options, the first named `A`."""
    answer: int | None = None
    """Position of the right option."""

    def __post_init__(self) -> None:
        if (self.reference is None) == (not self.choices):
            raise LseError("A document has either a reference or options; give one of them.")
        if self.choices and (self.answer is None or not 0 <= self.answer < len(self.choices)):
            raise LseError(
                f"The answer of a document is the position of one of its {len(self.choices)} "
                f"options, from 0; got {self.answer}."
            )

    @property
    def letters(self) -> str:
        """The letters of the options, e.g. `ABCD`."""
        return LETTERS[: len(self.choices)]


def digest(documents: Sequence[Document]) -> str:
    """Hash the documents of a task: equal if and only if the questions are.

    >>> digest([Document(prompt="a", reference="b")])[:8]
    '719a0285'
    """
    rows = [dataclasses.astuple(document) for document in documents]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
