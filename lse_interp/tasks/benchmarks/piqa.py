"""PIQA: the better of two ways to do something, in English.

The paper names no split; `validation` is read, since `test` has no answers. `ybisk/piqa` is a
script, which `datasets` 4 does not run; `baber/piqa` holds the same rows as parquet. Source: paper,
appendix C.2 (prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import Row, position_cell, text_cell
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.task import Document


def _question(row: Row, *, where: str) -> Document:
    """Ask for the better solution; `label` counts from 0."""
    options = tuple(text_cell(row, name, where=where) for name in ("sol1", "sol2"))
    goal = text_cell(row, "goal", where=where)
    return Document(
        prompt="Choose the most appropriate solution for the following goal:\n\n"
        f"Goal: {goal}\n\n{format_options(options)}\n\nAnswer:",
        choices=options,
        answer=position_cell(row, "label", first=0, n_options=2, where=where),
    )


BENCHMARKS.register("piqa")(
    Benchmark(
        title="PIQA",
        kind="choice",
        tasks=in_english,
        data=DataSet("baber/piqa", split="validation", columns=("goal", "sol1", "sol2", "label")),
        question=_question,
        example={"label": "1"},
    )
)
