"""HellaSwag: how a scene continues, in English.

The paper names no split; `validation` is read, since `test` has no answers. Source: paper, appendix
C.2 (prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import Row, position_cell, text_cell, texts_cell
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.task import Document


def _question(row: Row, *, where: str) -> Document:
    """Ask for the ending; `label` counts from 0."""
    options = texts_cell(row, "endings", where=where)
    answer = position_cell(row, "label", first=0, n_options=len(options), where=where)
    context = text_cell(row, "ctx", where=where)
    return Document(
        prompt="Complete the following scenario by choosing the most likely continuation:\n\n"
        f"{context}\n\n{format_options(options)}\n\nAnswer:",
        choices=tuple(options),
        answer=answer,
    )


BENCHMARKS.register("hellaswag")(
    Benchmark(
        title="HELLASWAG",
        kind="choice",
        tasks=in_english,
        data=DataSet("Rowan/hellaswag", split="validation", columns=("ctx", "endings", "label")),
        question=_question,
        example={"endings": [f"{{option {number}}}" for number in range(1, 5)], "label": "1"},
    )
)
