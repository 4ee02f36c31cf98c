"""A finished table of scores: added to, or refused where it holds other questions."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.reuse import changed_options
from lse_interp.core.errors import MismatchError
from lse_interp.tasks.results import EvaluationTable, Measure

__all__ = ["require_distinct_methods", "require_same_questions"]

_OPTIONS = ("tasks", "limit", "prompt_style", "data_dir", "parallel")
_REMEDY = (
    "Pass --name for a table of its own; answers are kept by model and question, and are not asked "
    "for again. --overwrite replaces the table, and asks every question again."
)


def require_same_questions(
    table: EvaluationTable, measures: Sequence[Measure], *, path: Path, config: Any
) -> EvaluationTable:
    """Return a finished table, its measures in the order asked for.

    Args:
        table: The table.
        measures: What is asked for; names of rows may have changed since.
        path: Where the table lies.
        config: The configuration of the stage now.

    Raises:
        MismatchError: the table holds other tasks, questions or metrics.
    """
    found = {_key(measure): at for at, measure in enumerate(table.measures)}
    asked = {_key(measure): measure for measure in measures}
    if found.keys() != asked.keys():
        options = changed_options(table.provenance.get("config"), config, _OPTIONS)
        raise MismatchError(
            f"{path} is finished, with other questions: {_tasks(table.measures, measures)}"
            f"{f' ({options})' if options else ''}. {_REMEDY}"
        )
    return dataclasses.replace(
        table,
        measures=tuple(asked.values()),
        scores=tuple(table.scores[found[key]] for key in asked),
    )


def require_distinct_methods(
    table: EvaluationTable, asked: Mapping[str, tuple[str, int]], *, path: Path
) -> None:
    """Refuse to add a model of the same method and seed as another, which nothing could average.

    Args:
        table: The finished table.
        asked: Label -> method and seed of the models asked for, the base first.
        path: Where the table lies.

    Raises:
        MismatchError: a model of the table that was not asked for has the method and seed of one
            that was.
    """
    rows = zip(table.models[1:], table.methods[1:], table.seeds[1:], strict=True)
    kept = {(method, seed): label for label, method, seed in rows if label not in asked}
    for label, (method, seed) in list(asked.items())[1:]:
        if (method, seed) in kept:
            raise MismatchError(
                f"{path} holds {kept[method, seed]}, of method {method} and seed {seed} like "
                f"{label}, and two of them cannot be averaged over languages. Pass --name for a "
                "table of its own, or name both with --runs."
            )


def _tasks(found: Sequence[Measure], asked: Sequence[Measure]) -> str:
    """Say which tasks differ: there alone, asked for alone, or with other questions."""
    before, now = (
        {task: {_key(m) for m in measures if m.task == task} for task in _names(measures)}
        for measures in (found, asked)
    )
    groups = {
        "it also holds": [task for task in before if task not in now],
        "it lacks": [task for task in now if task not in before],
        "other questions in": [t for t in before if t in now and before[t] != now[t]],
    }
    return "; ".join(f"{what} {', '.join(tasks)}" for what, tasks in groups.items() if tasks)


def _names(measures: Sequence[Measure]) -> list[str]:
    return list(dict.fromkeys(measure.task for measure in measures))


def _key(measure: Measure) -> tuple[str, str, str]:
    return measure.task, measure.metric, measure.text
