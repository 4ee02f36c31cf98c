"""Winogrande: which of two words belongs in the place of `_`, in English.

The paper names no split; `validation` is read, since `test` has no answers. Source: paper, appendix
C.2 (prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import choice_question

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
            folders=("winogrande_1.1",),
            files=("dev",),
        ),
        question=choice_question(
            "Complete the sentence by choosing the correct option:\n\n{sentence}",
            options=("option1", "option2"),
            answer="answer",
            first=1,
        ),
        example={"answer": "1"},
    )
)
