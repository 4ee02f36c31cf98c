"""MMLU: exam questions of 57 subjects, in English.

The paper names no split; its scores fit the size of `validation`. Source: paper, appendix C.2
(prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import Row, position_cell, text_cell, texts_cell
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.task import Document


def _question(row: Row, *, where: str) -> Document:
    """Ask a question; `answer` counts from 0."""
    options = texts_cell(row, "choices", where=where)
    answer = position_cell(row, "answer", first=0, n_options=len(options), where=where)
    question = text_cell(row, "question", where=where)
    return Document(
        prompt="Answer the following multiple choice question:\n\n"
        f"{question}\n\n{format_options(options)}\n\nAnswer:",
        choices=tuple(options),
        answer=answer,
    )


BENCHMARKS.register("mmlu")(
    Benchmark(
        title="MMLU",
        kind="choice",
        tasks=in_english,
        data=DataSet(
            "cais/mmlu",
            split="validation",
            columns=("question", "choices", "answer"),
            config="all",
        ),
        question=_question,
        example={"choices": [f"{{option {number}}}" for number in range(1, 5)], "answer": "1"},
    )
)
