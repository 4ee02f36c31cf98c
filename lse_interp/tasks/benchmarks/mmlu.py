"""MMLU: exam questions of 57 subjects, in English.

The paper names no split; its scores fit the size of `validation`. Source: paper, appendix C.2
(prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import Row
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import choice_question


def _with_choices(row: Row) -> Row:
    """Translate a row of the csv files: an option a cell, and the letter of the right one."""
    if not {*"ABCD", "answer"} <= row.keys() or row["answer"] not in [*"ABCD"]:
        return row
    choices = [row[letter] for letter in "ABCD"]
    return {"question": row["question"], "choices": choices, "answer": "ABCD".index(row["answer"])}


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
            files=("val",),
            header=("question", *"ABCD", "answer"),
            from_owner=_with_choices,
        ),
        question=choice_question(
            "Answer the following multiple choice question:\n\n{question}",
            options="choices",
            answer="answer",
            first=0,
        ),
        example={"choices": [f"{{option {number}}}" for number in range(1, 5)], "answer": "1"},
    )
)
