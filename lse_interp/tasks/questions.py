"""The questions of a language: its own tasks and the general ones, by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.languages import lookup
from lse_interp.tasks.base import Document, Task
from lse_interp.tasks.benchmarks import load_documents
from lse_interp.tasks.embedded import EMBEDDED_TASKS, embedded_documents, embedded_tasks
from lse_interp.tasks.prompts import Style
from lse_interp.tasks.registry import BENCHMARKS, benchmark_tasks

__all__ = ["Questions", "named_tasks", "questions_of"]

Questions = Mapping[Task, Sequence[Document]]
"""The questions of each task."""


def questions_of(
    language: str,
    *,
    tasks: Sequence[str] = ("embedded",),
    data_dir: Path | None = None,
    prompt_style: Style = "paper",
    limit: int | None = None,
) -> dict[Task, list[Document]]:
    """Write the questions of a language's tasks, and of general tasks.

    Args:
        language: ISO 639-3 code or name.
        tasks: `embedded`, `paper`, or names of tasks of either.
        data_dir: Folder with local copies of the benchmarks, instead of the hub.
        prompt_style: What stands before `Translation:`.
        limit: Take the first so many questions of a task.

    Raises:
        LseError: An unknown task.
        LanguageError: An unknown language, or one that the embedded corpus lacks.
        CorpusError: Data that is missing or has other columns; see `benchmarks.load_documents`.
    """
    code = lookup(language).code
    embedded, benchmarks = named_tasks(tasks)
    questions: dict[Task, list[Document]] = {}
    if embedded:
        for task in embedded_tasks(code, names=embedded):
            questions[task] = embedded_documents(task, prompt_style=prompt_style)[:limit]
    if benchmarks:
        for task in benchmark_tasks(code, names=benchmarks):
            questions[task] = load_documents(
                task, data_dir=data_dir, prompt_style=prompt_style, limit=limit
            )
    return questions


def named_tasks(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split names into embedded tasks and benchmarks; `embedded` and `paper` stand for all.

    Raises:
        LseError: an unknown name.
    """
    known = ("embedded", "paper", *EMBEDDED_TASKS, *BENCHMARKS)
    for name in names:
        if name not in known:
            raise LseError(f"Unknown task {name!r}. {near_misses(name, known)}")
    embedded = [name for name in EMBEDDED_TASKS if name in names or "embedded" in names]
    benchmarks = [name for name in BENCHMARKS if name in names or "paper" in names]
    return tuple(embedded), tuple(benchmarks)
