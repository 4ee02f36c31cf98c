"""Benchmarks, one file each: data set, languages, columns, prompt, and the question of a row.

    BENCHMARKS.register("piqa")(Benchmark(title="PIQA", kind="choice", tasks=in_english, ...))

Another package adds a benchmark through an entry point of the group `lse_interp.tasks`; `--tasks`
then takes its name.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.core.errors import CorpusError, LseError, near_misses
from lse_interp.core.kinds import Kinds
from lse_interp.core.languages import Language, lookup
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.translation import Style, translation_prompt
from lse_interp.tasks.task import Document, Task

__all__ = [
    "BENCHMARKS",
    "SUITES",
    "Benchmark",
    "Reading",
    "in_both_directions",
    "in_each_language",
    "in_english",
    "load_documents",
    "tasks_of",
]

_ENGLISH = "eng"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How questions are read."""

    data_dir: Path | None = None
    """Folder with local copies of the data sets; None reads the hub."""
    prompt_style: Style = "paper"
    """Form of translation prompts."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """All of a benchmark. Its questions come from `question` or from `documents`."""

    title: str
    """Its row in the paper's tables."""
    kind: str
    """How it is asked and scored: a name in `tasks.kinds`."""
    tasks: Callable[["Benchmark", str, Language], Sequence[Task]]
    """List its tasks, given its name and the target language: `in_english`, `in_each_language`,
    `in_both_directions`, or a function like them."""
    data: DataSet | None = None
    """Where its rows are."""
    question: Callable[..., Document] | None = None
    """Write the question of a row: `question(row, where=...)`."""
    documents: Callable[[Task, Reading], Iterator[Document]] | None = None
    """Write all questions of a task, if its rows are not questions."""
    example: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Cells for `prompt_template`, of the columns that a placeholder does not fit."""

    def prompt_template(self, task: Task, reading: Reading) -> str:
        """Return the prompt of a task, with names in place of the parts that differ by question.

        If the questions have no columns, it is the prompt of the first question.
        """
        if task.source is not None:
            name = lookup(task.language).name
            return translation_prompt("{source_text}", target_name=name, style=reading.prompt_style)
        if self.question is None or self.data is None:
            return load_documents(task, reading=reading, limit=1)[0].prompt
        row = {column: f"{{{column}}}" for column in self.data.columns}
        return self.question({**row, **self.example}, where=task.name).prompt


BENCHMARKS: Kinds[Benchmark] = Kinds(
    "lse_interp.tasks.benchmarks", group="lse_interp.tasks", what="task"
)

SUITES: Mapping[str, tuple[str, ...]] = {
    "embedded": ("translation", "topics", "endings"),
    "paper": (
        *("flores", "belebele", "sib200", "opus100", "arc_challenge", "arc_easy"),
        *("hellaswag", "piqa", "winogrande", "mmlu"),
    ),
}
"""Names of groups of benchmarks; `paper` in the order of its Table 2. Source: paper, section
4.2."""


def tasks_of(language: str, names: Sequence[str]) -> list[Task]:
    """List the tasks of a language, and those of English that measure general capabilities.

    Args:
        language: The target language, by any spelling.
        names: Names of benchmarks, or of suites.

    Returns:
        Tasks in the order of `SUITES`, then others; general ones follow those of the language. A
        benchmark without the language has none (Belebele has no Welsh), and English is not
        translated into itself.

    Raises:
        LanguageError: An unknown language, or one that the embedded corpus lacks.
        LseError: An unknown task.

    >>> [task.label for task in tasks_of("cym", ["flores", "belebele", "arc_easy"])]
    ['FLORES cym→eng', 'FLORES eng→cym', 'arc easy']
    """
    record = lookup(language)
    in_suites = itertools.chain.from_iterable(SUITES.values())
    order = list(dict.fromkeys((*in_suites, *BENCHMARKS.names())))
    for name in names:
        if name not in (*SUITES, *order):
            raise LseError(f"Unknown task {name!r}. {near_misses(name, (*SUITES, *order))}")
    chosen = {member for name in names for member in SUITES.get(name, (name,))}
    benchmarks = {name: BENCHMARKS[name] for name in order if name in chosen}
    tasks = [
        task
        for name, benchmark in benchmarks.items()
        for task in benchmark.tasks(benchmark, name, record)
    ]
    return sorted(tasks, key=lambda task: task.group == "general")


def load_documents(
    task: Task, *, reading: Reading | None = None, limit: int | None = None
) -> list[Document]:
    """Read the questions of a task, in the paper's prompts.

    Args:
        task: One of `tasks_of`.
        reading: Where the data are, and the form of prompts.
        limit: Take the first so many questions, 1 or more; None takes all.

    Raises:
        CorpusError: A language that the benchmark lacks, files or columns that are missing, an
            answer that is no option, or a hub that cannot be reached.
        LseError: A task of no benchmark.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"`limit` should be 1 or more questions; got {limit}.")
    if task.benchmark is None:
        raise LseError(f"The task {task.name} has no benchmark; give its questions yourself.")
    benchmark, reading = BENCHMARKS[task.benchmark], reading or Reading()
    if benchmark.documents is not None:
        return list(itertools.islice(benchmark.documents(task, reading), limit))
    assert benchmark.data is not None and benchmark.question is not None
    rows = benchmark.data.rows(task.benchmark, lookup(task.language), data_dir=reading.data_dir)
    return [benchmark.question(row, where=where) for where, row in itertools.islice(rows, limit)]


def in_english(benchmark: Benchmark, name: str, language: Language) -> list[Task]:
    """List the one task of a benchmark of English: general capabilities."""
    title = benchmark.title
    return [Task(name, title, title.lower(), "general", benchmark.kind, _ENGLISH, name)]


def in_each_language(benchmark: Benchmark, name: str, language: Language) -> list[Task]:
    """List the task of a language; none if the data set lacks it."""
    assert benchmark.data is not None
    if not benchmark.data.configs(language):
        return []
    title, code = benchmark.title, language.code
    return [Task(f"{name}_{code}", title, f"{title} {code}", "target", benchmark.kind, code, name)]


def in_both_directions(
    benchmark: Benchmark, name: str, language: Language, *, prefix: str = ""
) -> list[Task]:
    """List the translations of a language into English and back; none if the data lack it.

    Args:
        benchmark: The benchmark.
        name: Its name.
        language: The target language.
        prefix: What the names of the tasks begin with.
    """
    code, title = language.code, benchmark.title
    lacks = benchmark.data is not None and not benchmark.data.configs(language)
    if code == _ENGLISH or lacks:
        return []
    return [
        Task(
            name=f"{prefix}{name}_{source}_{target}",
            row=f"{title} {direction}",
            label=f"{title} {source}→{target}",
            group="target",
            kind=benchmark.kind,
            language=target,
            benchmark=name,
            source=source,
        )
        for source, target, direction in (
            (code, _ENGLISH, "TG→EN"),
            (_ENGLISH, code, "EN→TG"),
        )
    ]
