"""The questions of a language: its own tasks and the general ones, by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError
from lse_interp.tasks.benchmarks import Reading, load_documents, tasks_of
from lse_interp.tasks.kinds.translation import Style
from lse_interp.tasks.task import Document, Task

__all__ = ["Questions", "questions_of"]

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
        tasks: Names of benchmarks, or `embedded` or `paper` for all of these.
        data_dir: Folder with local copies of the benchmarks, instead of the hub; see
            `tasks.data_sets`.
        prompt_style: What is before `Translation:`.
        limit: Take the first so many questions of a task.

    Raises:
        LseError: An unknown task.
        LanguageError: An unknown language, or one that the embedded corpus lacks.
        CorpusError: Data that is missing or has other columns; see `benchmarks.load_documents`.
    """
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise CorpusError(
            f"There is no folder {data_dir} to read benchmarks from. Correct --data-dir, or leave "
            "it out to read them from the hub."
        )
    reading = Reading(None if data_dir is None else Path(data_dir).expanduser(), prompt_style)
    return {
        task: load_documents(task, reading=reading, limit=limit)
        for task in tasks_of(language, tasks)
    }
