"""What a model was asked before: kept by the hash of its weights, so that nothing is asked twice.

A base model meets the same general questions beside every language; they are asked once.
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

__all__ = ["Asked"]


class Asked:
    """The scores of one model, in a folder of its own.

    The folder holds `scores.safetensors` and, per task, what the model answered (`<task>.jsonl`).
    Scores are found by task, metric and hash of the questions; other questions are other scores.

    Args:
        folder: Where models are kept, one folder each.
        fingerprint: Hash of the weights.
        fresh: Do not find what is there.

    Raises:
        ArtifactError: scores that cannot be read.
    """

    def __init__(self, folder: Path, fingerprint: str, *, fresh: bool = False) -> None:
        self.folder = folder / fingerprint[:16]
        self._path = self.folder / "scores.safetensors"
        self._fingerprint = fingerprint
        known = self._read()
        self._scores = {} if fresh else known

    def find(self, measures: Sequence[Measure]) -> dict[Measure, Tensor] | None:
        """Return the scores of these measures, None unless all are there."""
        by_key = {_key(measure): scores for measure, scores in self._scores.items()}
        if not all(_key(measure) in by_key for measure in measures):
            return None
        return {measure: by_key[_key(measure)] for measure in measures}

    def add(self, table: EvaluationTable) -> None:
        """Keep the scores of a table of this one model; newer scores of a measure win."""
        new = dict(zip(table.measures, (scores[0] for scores in table.scores), strict=True))
        self._scores = _without(self._scores, new) | new
        # Another process may have asked the same model something else meanwhile.
        with locked(self._path, what="the scores of one model"):
            known = _without(self._read(), new) | new
            dataclasses.replace(
                table,
                measures=tuple(known),
                scores=tuple(scores[None] for scores in known.values()),
            ).save(self._path)

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
        if table.fingerprints != (self._fingerprint,):
            return {}
        return dict(zip(table.measures, (scores[0] for scores in table.scores), strict=True))


def _without(
    scores: Mapping[Measure, Tensor], others: Mapping[Measure, Tensor]
) -> dict[Measure, Tensor]:
    """Leave out the measures of the same task and metric as one of the others."""
    replaced = {(measure.task, measure.metric) for measure in others}
    return {m: kept for m, kept in scores.items() if (m.task, m.metric) not in replaced}


def _key(measure: Measure) -> tuple[str, str, str]:
    return measure.task, measure.metric, measure.text
