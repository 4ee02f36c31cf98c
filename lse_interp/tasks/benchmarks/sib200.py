"""SIB-200: the topic of a sentence of FLORES, one of seven, in 205 languages.

The paper names no split; `test` is read. A configuration is a language, `est_Latn`. Source: paper,
appendix C.2 (prompt).
"""

import functools

from lse_interp.core.errors import CorpusError
from lse_interp.data.embedded import TOPICS
from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_each_language
from lse_interp.tasks.benchmarks.flores import FLORES_200
from lse_interp.tasks.cells import Row, text_cell
from lse_interp.tasks.data_sets import DataSet, flores_codes
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.task import Document

__all__ = ["SIB_200", "topic_question"]

SIB_200 = FLORES_200 | {"nqo_Nkoo"}
"""The languages of FLORES-200, and N'Ko."""

_TOPICS = tuple(TOPICS.values())


def topic_question(text: str, *, answer: int) -> Document:
    """Ask for the topic of a text.

    Args:
        text: The text.
        answer: Position of its topic among `data.embedded.TOPICS`.
    """
    return Document(
        prompt="Classify the following text into one of these topics:\n"
        f"{format_options(_TOPICS)}\n\nText: {text}\n\nAnswer:",
        choices=_TOPICS,
        answer=answer,
    )


def _question(row: Row, *, where: str) -> Document:
    """Ask for a topic; a `category` is a topic of the prompt in small letters."""
    names = [topic.lower() for topic in _TOPICS]
    category = text_cell(row, "category", where=where)
    if category not in names:
        raise CorpusError(
            f"{where}: `category` should be one of {', '.join(names)}; found {category!r}."
        )
    return topic_question(text_cell(row, "text", where=where), answer=names.index(category))


BENCHMARKS.register("sib200")(
    Benchmark(
        title="SIB200",
        kind="choice",
        tasks=in_each_language,
        data=DataSet(
            "Davlan/sib200",
            split="test",
            columns=("category", "text"),
            configs_of=functools.partial(flores_codes, codes=SIB_200),
            folders=("sib-200",),
            files=("annotated/{config}/test",),
        ),
        question=_question,
        example={"category": "travel"},
    )
)
