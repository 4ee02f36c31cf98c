"""HellaSwag: how a scene continues, in English.

The paper names no split; `validation` is read, since `test` has no answers. Source: paper, appendix
C.2 (prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import choice_question

BENCHMARKS.register("hellaswag")(
    Benchmark(
        title="HELLASWAG",
        kind="choice",
        tasks=in_english,
        data=DataSet(
            "Rowan/hellaswag",
            split="validation",
            columns=("ctx", "endings", "label"),
            files=("hellaswag_val",),
        ),
        question=choice_question(
            "Complete the following scenario by choosing the most likely continuation:\n\n{ctx}",
            options="endings",
            answer="label",
            first=0,
        ),
        example={"endings": [f"{{option {number}}}" for number in range(1, 5)], "label": "1"},
    )
)
