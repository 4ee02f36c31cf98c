"""PIQA: the better of two ways to do something, in English.

The paper names no split; `validation` is read, since `test` has no answers. `ybisk/piqa` is a
script, which `datasets` 4 does not run; `baber/piqa` holds the same rows as parquet. Source: paper,
appendix C.2 (prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import choice_question

BENCHMARKS.register("piqa")(
    Benchmark(
        title="PIQA",
        kind="choice",
        tasks=in_english,
        data=DataSet(
            "baber/piqa",
            split="validation",
            columns=("goal", "sol1", "sol2", "label"),
            folders=("physicaliqa-train-dev",),
            files=("valid", "dev"),
            labels="label",
        ),
        question=choice_question(
            "Choose the most appropriate solution for the following goal:\n\nGoal: {goal}",
            options=("sol1", "sol2"),
            answer="label",
            first=0,
        ),
        example={"label": "1"},
    )
)
