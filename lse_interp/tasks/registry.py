"""Which benchmarks the paper asks, in which languages, and the tasks they make."""

import dataclasses
from collections.abc import Callable, Sequence

from lse_interp.core.errors import CorpusError, LseError, near_misses
from lse_interp.core.languages import Language, lookup
from lse_interp.data.hub import FLORES
from lse_interp.tasks import rows
from lse_interp.tasks.base import Document, Task
from lse_interp.tasks.coverage import BELEBELE, FLORES_200, flores_code, opus_code

__all__ = ["BENCHMARKS", "Benchmark", "benchmark_of", "benchmark_tasks"]

_ENGLISH = "eng"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Where the questions of a benchmark are and how its rows are read."""

    name: str
    title: str
    """Its row in the paper's tables."""
    dataset: str
    """Data set on the Hugging Face hub."""
    split: str
    columns: tuple[str, ...]
    """The columns that are read."""
    config: str | None = None
    """Configuration, for a benchmark of English alone."""
    config_of: Callable[[Language], str | None] | None = None
    """Configuration of a language, None for one that the benchmark lacks; for the others, None."""
    to_document: Callable[..., Document] | None = None
    """Question of a row; None for pairs of sentences to translate."""


def _of_codes(codes: frozenset[str]) -> Callable[[Language], str | None]:
    return lambda language: flores_code(language, codes)


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="flores",
            title="FLORES",
            dataset=FLORES,
            split="devtest",
            columns=("id", "text"),
            config_of=_of_codes(FLORES_200),
        ),
        Benchmark(
            name="belebele",
            title="BELEBELE",
            dataset="facebook/belebele",
            split="test",
            columns=(
                "flores_passage",
                "question",
                *(f"mc_answer{number}" for number in range(1, 5)),
                "correct_answer_num",
            ),
            config_of=_of_codes(BELEBELE),
            to_document=rows.belebele,
        ),
        Benchmark(
            name="sib200",
            title="SIB200",
            dataset="Davlan/sib200",
            split="test",
            columns=("category", "text"),
            config_of=_of_codes(FLORES_200),
            to_document=rows.sib200,
        ),
        Benchmark(
            name="opus100",
            title="OPUS",
            dataset="Helsinki-NLP/opus-100",
            split="test",
            columns=("translation",),
            config_of=opus_code,
        ),
        *(
            Benchmark(
                name=f"arc_{level.lower()}",
                title=f"ARC {level.upper()}",
                dataset="allenai/ai2_arc",
                config=f"ARC-{level}",
                split="validation",
                columns=("question", "choices", "answerKey"),
                to_document=rows.arc,
            )
            for level in ("Challenge", "Easy")
        ),
        Benchmark(
            name="hellaswag",
            title="HELLASWAG",
            dataset="Rowan/hellaswag",
            split="validation",
            columns=("ctx", "endings", "label"),
            to_document=rows.hellaswag,
        ),
        Benchmark(
            name="piqa",
            title="PIQA",
            dataset="baber/piqa",
            split="validation",
            columns=("goal", "sol1", "sol2", "label"),
            to_document=rows.piqa,
        ),
        Benchmark(
            name="winogrande",
            title="WINOGRANDE",
            dataset="allenai/winogrande",
            config="winogrande_xl",
            split="validation",
            columns=("sentence", "option1", "option2", "answer"),
            to_document=rows.winogrande,
        ),
        Benchmark(
            name="mmlu",
            title="MMLU",
            dataset="cais/mmlu",
            config="all",
            split="validation",
            columns=("question", "choices", "answer"),
            to_document=rows.mmlu,
        ),
    )
}
"""The benchmarks, in the order of the paper's Table 2. Source: paper, section 4.2."""


def benchmark_tasks(language: str, *, names: Sequence[str] | None = None) -> list[Task]:
    """List the tasks of a language, and those of English that stand for general capabilities.

    Args:
        language: the target language, by any spelling.
        names: names of benchmarks; None takes all.

    Returns:
        Tasks in the order of `BENCHMARKS`. A benchmark that lacks the language has none (Belebele
        has no Welsh), and English is not translated into itself.

    Raises:
        LanguageError: unknown language.
        LseError: unknown benchmark.

    >>> [task.label for task in benchmark_tasks("cym", names=["flores", "belebele", "arc_easy"])]
    ['FLORES cym→eng', 'FLORES eng→cym', 'arc easy']
    """
    record = lookup(language)
    chosen = tuple(BENCHMARKS) if names is None else tuple(names)
    for name in chosen:
        if name not in BENCHMARKS:
            raise LseError(f"Unknown benchmark {name!r}. {near_misses(name, BENCHMARKS)}")
    return [
        task
        for benchmark in BENCHMARKS.values()
        if benchmark.name in chosen
        for task in _tasks(benchmark, record)
    ]


def benchmark_of(task_name: str) -> tuple[Benchmark, list[str]]:
    """Return the benchmark that a task is named after, and the languages in the name.

    Raises:
        CorpusError: a benchmark without that language.
        LanguageError: unknown language.
        LseError: a name of another form.
    """
    for name, benchmark in BENCHMARKS.items():
        if task_name != name and not task_name.startswith(f"{name}_"):
            continue
        codes = task_name.removeprefix(name).split("_")[1:]
        others = [code for code in codes if code != _ENGLISH]
        language = lookup(others[0] if others else _ENGLISH)
        if task_name in [task.name for task in _tasks(benchmark, language)]:
            return benchmark, codes
        if benchmark.config_of is not None and benchmark.config_of(language) is None:
            raise CorpusError(
                f"{benchmark.title} has no {language.name} ({language.code}): leave {task_name} "
                f"out, as `benchmark_tasks` does."
            )
    raise LseError(
        f"{task_name!r} is no task of a benchmark. {near_misses(task_name, BENCHMARKS)} Tasks are "
        f"named as in flores_mlt_eng, belebele_mlt, arc_easy."
    )


def _tasks(benchmark: Benchmark, language: Language) -> list[Task]:
    name, title, code = benchmark.name, benchmark.title, language.code
    if benchmark.config_of is None:
        return [Task(name, title, title.lower(), "general", "choice", _ENGLISH)]
    if benchmark.config_of(language) is None:
        return []
    if benchmark.to_document is not None:
        return [Task(f"{name}_{code}", title, f"{title} {code}", "target", "choice", code)]
    if code == _ENGLISH:
        return []
    return [
        Task(
            name=f"{name}_{source}_{target}",
            row=f"{title} {direction}",
            label=f"{title} {source}→{target}",
            group="target",
            kind="translation",
            language=target,
        )
        for source, target, direction in (
            (code, _ENGLISH, "TG→EN"),
            (_ENGLISH, code, "EN→TG"),
        )
    ]
