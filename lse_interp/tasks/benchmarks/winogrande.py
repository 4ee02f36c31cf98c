"""Winogrande: which of two words belongs in the place of `_`, in English.

The paper names no split; `validation` is read, since `test` has no answers. Source: paper, appendix
C.2 (prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import Row, position_cell, text_cell
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.task import Document


def _question(row: Row, *, where: str) -> Document:
    """Ask for the word; `answer` counts from 1."""
    options = tuple(text_cell(row, name, where=where) for name in ("option1", "option2"))
    sentence = text_cell(row, "sentence", where=where)
    return Document(
        prompt="Complete the sentence by choosing the correct option:\n\n"
        f"{sentence}\n\n{format_options(options)}\n\nAnswer:",
        choices=options,
        answer=position_cell(row, "answer", first=1, n_options=2, where=where),
    )


BENCHMARKS.register("winogrande")(
    Benchmark(
        title="WINOGRANDE",
        kind="choice",
        tasks=in_english,
        data=DataSet(
            "allenai/winogrande",
            split="validation",
            columns=("sentence", "option1", "option2", "answer"),
            config="winogrande_xl",
        ),
        question=_question,
        example={"answer": "1"},
    )
)
