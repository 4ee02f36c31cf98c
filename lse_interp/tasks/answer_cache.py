"""AnswerCache: earlier scores and answers of a model, by the hash of its weights.

Every language asks the base model the same general questions; the model answers them once.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.locks import locked
from lse_interp.tasks.results import EvaluationTable, Measure

__all__ = ["AnswerCache"]


class AnswerCache:
    """The scores of one model, in one folder.

    The folder holds `scores.safetensors` and, per task, what the model answered (`<task>.jsonl`).
    Scores are found by task, metric and hash of the questions; other questions have other scores.

    Args:
        folder: The folder of all models.
        fingerprint: Hash of the weights.
        fresh: Ignore earlier scores.

    Raises:
        ArtifactError: Scores that cannot be read.
    """

    def __init__(self, folder: Path, fingerprint: str, *, fresh: bool = False) -> None:
        self.folder = folder / fingerprint[:16]
        self._path = self.folder / "scores.safetensors"
        self._fingerprint = fingerprint
        known = self._read()
        self._scores = {} if fresh else known

    def find(self, measures: Sequence[Measure]) -> dict[Measure, Tensor] | None:
        """Return the scores of these measures; None if one is missing."""
        known = {measure.key: scores for measure, scores in self._scores.items()}
        if any(measure.key not in known for measure in measures):
            return None
        return {measure: known[measure.key] for measure in measures}

    def add(self, table: EvaluationTable) -> None:
        """Keep the scores of a table of this one model; newer scores of a measure win."""
        new = _by_measure(table)
        self._scores = _updated(self._scores, new)
        # Another process may have asked the same model something else meanwhile.
        with locked(self._path, what="the scores of one model"):
            known = _updated(self._read(), new)
            scores = tuple(values[None] for values in known.values())
            dataclasses.replace(table, measures=tuple(known), scores=scores).save(self._path)

    def write_answers(self, task: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write what the model answered to the questions of a task, one JSON object a line."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = self.folder / f"{task}.jsonl"
        write_atomic(path, lambda out: out.write_text(lines, encoding="utf-8"))
        return path

    def _read(self) -> dict[Measure, Tensor]:
        if not self._path.is_file():
            return {}
        table = EvaluationTable.load(self._path)
        return _by_measure(table) if table.fingerprints == (self._fingerprint,) else {}


def _by_measure(table: EvaluationTable) -> dict[Measure, Tensor]:
    return dict(zip(table.measures, (scores[0] for scores in table.scores), strict=True))


def _updated(
    known: Mapping[Measure, Tensor], new: Mapping[Measure, Tensor]
) -> dict[Measure, Tensor]:
    """Replace the scores of the same task and metric by new ones."""
    replaced = {(measure.task, measure.metric) for measure in new}
    return {m: v for m, v in known.items() if (m.task, m.metric) not in replaced} | {**new}
