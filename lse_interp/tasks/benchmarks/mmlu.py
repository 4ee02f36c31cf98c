"""MMLU: exam questions of 57 subjects, in English.

The paper names no split; its scores fit the size of `validation`. Source: paper, appendix C.2
(prompt).
"""

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.choice import choice_question

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
        question=choice_question(
            "Answer the following multiple choice question:\n\n{question}",
            options="choices",
            answer="answer",
            first=0,
        ),
        example={"choices": [f"{{option {number}}}" for number in range(1, 5)], "answer": "1"},
    )
)
