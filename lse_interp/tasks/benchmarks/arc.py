"""ARC: school questions of science, in English; an easy and a challenging part.

The paper names no split; its scores fit the size of `validation`. Source: paper, appendix C.2
(prompt).
"""

from collections.abc import Mapping

from lse_interp.core.errors import CorpusError
from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import Row, nested_cell, require_columns, require_texts, text_cell
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.task import Document


def _question(row: Row, *, where: str) -> Document:
    """Ask a question; `answerKey` is one of `choices.label`.

    The labels are letters in some rows and digits in others; the prompt has letters throughout.
    """
    choices = nested_cell(row, "choices", kind=Mapping, where=where)
    require_columns(choices, ("text", "label"), where=f"{where}, `choices`")
    options = require_texts(choices["text"], "choices.text", where=where)
    labels = require_texts(choices["label"], "choices.label", where=where)
    key = text_cell(row, "answerKey", where=where)
    if len(labels) != len(options) or key not in labels:
        raise CorpusError(
            f"{where}: `answerKey` should be one of the {len(options)} labels of `choices`; found "
            f"{key!r} and the labels {', '.join(labels)}."
        )
    question = text_cell(row, "question", where=where)
    return Document(
        prompt=f"Answer the following question:\n\n{question}\n\n{format_options(options)}"
        "\n\nAnswer:",
        choices=tuple(options),
        answer=labels.index(key),
    )


def _flat(row: Row) -> Row:
    """Translate a row of the jsonl files, in which `question` holds `stem` and `choices`."""
    question = row.get("question")
    if not isinstance(question, Mapping):
        return row
    options = [option for option in question.get("choices", []) if isinstance(option, Mapping)]
    choices = {name: [option.get(name) for option in options] for name in ("text", "label")}
    return {**row, "question": question.get("stem"), "choices": choices}


def _part(title: str, config: str) -> Benchmark:
    texts = [f"{{option {number}}}" for number in range(1, 5)]
    return Benchmark(
        title=title,
        kind="choice",
        tasks=in_english,
        data=DataSet(
            "allenai/ai2_arc",
            split="validation",
            columns=("question", "choices", "answerKey"),
            config=config,
            folders=("ARC-V1-Feb2018-2",),
            files=(f"{config}-Dev.jsonl", f"{config}/{config}-Dev.jsonl"),
            from_owner=_flat,
        ),
        question=_question,
        example={"choices": {"text": texts, "label": list("ABCD")}, "answerKey": "A"},
    )


BENCHMARKS.register("arc_challenge")(_part("ARC CHALLENGE", "ARC-Challenge"))
BENCHMARKS.register("arc_easy")(_part("ARC EASY", "ARC-Easy"))
