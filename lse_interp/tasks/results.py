"""EvaluationTable: scores of several models on the same questions, question by question."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from lse_interp.artifacts.model_table import ModelTable
from lse_interp.core.errors import LseError, MismatchError, near_misses
from lse_interp.core.statistics import (
    bootstrap_interval,
    bootstrap_p_value,
    mcnemar_p_value,
    standard_error,
    wilson_interval,
)
from lse_interp.tasks.kinds import Unit, kind_of
from lse_interp.tasks.task import Task

__all__ = ["FRAME_COLUMNS", "EvaluationTable", "Measure", "measures_of"]

_LABELS = ("models", "methods", "seeds", "fingerprints")

FRAME_COLUMNS = (
    *("language", "model", "method", "seed", "task", "row", "label", "group", "metric", "unit"),
    *("headline", "score", "stderr", "base", "difference", "low", "high", "p_value"),
    "n_documents",
)
"""Columns of `EvaluationTable.to_frame`."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number per question: which task, and what is counted."""

    task: str
    """Name of the task, e.g. `belebele_mlt`."""
    row: str
    """Its row in a table over languages, e.g. `FLORES TG→EN`."""
    label: str
    """Its row in the table of one language, e.g. `FLORES mlt→eng`."""
    group: Literal["target", "general"]
    """Target-language performance or general capabilities."""
    language: str
    """Language of the text that is judged, ISO 639-3."""
    metric: str
    """`bleu`, `chrf`, `letter_accuracy`, `format_failure`, `loglikelihood_accuracy`, `loss`, ..."""
    unit: Unit
    higher_is_better: bool
    headline: bool
    """The metric of its task that the paper's tables would print."""
    text: str
    """Hash of the questions."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Task, metric and hash: equal for the same number on the same questions."""
        return self.task, self.metric, self.text


def measures_of(task: Task, *, text: str) -> tuple[Measure, ...]:
    """List what is measured in a task.

    Args:
        task: The task.
        text: Hash of its questions; see `tasks.task.digest`.

    >>> task = Task("arc_easy", "ARC EASY", "arc easy", "general", "choice", "eng")
    >>> [measure.metric for measure in measures_of(task, text="")]
    ['letter_accuracy', 'loglikelihood_accuracy', 'format_failure']
    """
    kind = kind_of(task)
    return tuple(
        Measure(
            task=task.name,
            row=task.row,
            label=task.label,
            group=task.group,
            language=task.language,
            metric=name,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            headline=metric.headline,
            text=text,
        )
        for name, metric in {**kind.metrics, **kind.controls}.items()
    )


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationTable(ModelTable):
    """Scores of several models, per measure and question.

    Raises:
        MismatchError: labels that do not fit the scores or are not distinct; a measure twice;
            scores that are not finite.
    """

    KIND = "evaluation_table"
    META = (*_LABELS, "language", "measures", "provenance")
    READ: ClassVar = {"measures": lambda values: Measure(**values)}
    LABELS = _LABELS
    VALUES = ("scores",)
    SETUP = ("language", "measures")

    models: tuple[str, ...]
    """A label per model; the first is the base model."""
    methods: tuple[str, ...]
    """How each was trained: `base`, `target`, `random:layer`, ..."""
    seeds: tuple[int, ...]
    """Seed of each training."""
    fingerprints: tuple[str, ...]
    """Hash of the weights of each."""
    language: str
    """The language trained, ISO 639-3."""
    measures: tuple[Measure, ...]
    scores: tuple[Float64[Tensor, "model _"], ...]
    """One tensor per measure, in its unit; tasks differ in their number of questions."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_models()
        if len(self.measures) != len(self.scores):
            raise MismatchError(
                f"Every measure needs its scores; got {len(self.measures)} measures and "
                f"{len(self.scores)} tensors of scores."
            )
        names = [f"{m.task} {m.metric}" for m in self.measures]
        if len(set(names)) < len(names):
            raise MismatchError(f"Measures need labels of their own; got {', '.join(names)}.")
        for measure, scores in zip(self.measures, self.scores, strict=True):
            if scores.shape[1] == 0 or not bool(torch.isfinite(scores).all()):
                raise MismatchError(
                    f"The scores of {measure.task} ({measure.metric}) should be finite numbers, "
                    f"at least one per model; got {scores.shape[1]} questions."
                )

    def of(self, task: str, metric: str) -> Float64[Tensor, "model document"]:
        """Select the scores of one measure.

        Raises:
            LseError: no such measure.
        """
        names = [f"{m.task} {m.metric}" for m in self.measures]
        wanted = f"{task} {metric}"
        if wanted not in names:
            raise LseError(f"No measure {wanted!r} here. {near_misses(wanted, names)}")
        return self.scores[names.index(wanted)]

    def to_frame(self, *, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
        """List every model's mean score, and its change against the first model.

        Columns: see `FRAME_COLUMNS`. `score` and `base` are means over questions, `stderr` the
        standard error of `score`; where questions are right or wrong, half of Wilson's interval of
        one standard deviation, which is never 0. `low` and `high` bound `difference` = score - base
        by a 95 % bootstrap over questions, paired. `p_value` is two-sided: McNemar's exact test
        where questions are right or wrong, the paired bootstrap elsewhere. The first model has none
        of these. Questions are taken to be independent; those of the embedded corpus share clauses,
        so that its intervals are too narrow.
        """
        rows = [
            self._row(measure, scores, at, n_bootstrap=n_bootstrap, seed=seed)
            for measure, scores in zip(self.measures, self.scores, strict=True)
            for at in range(len(self.models))
        ]
        return pd.DataFrame(rows, columns=list(FRAME_COLUMNS))

    def _tensors(self) -> dict[str, Tensor]:
        return {f"scores.{at}": scores for at, scores in enumerate(self.scores)}

    @classmethod
    def _fields(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Any]:
        scores = tuple(tensors[f"scores.{at}"] for at in range(len(meta["measures"])))
        return super()._fields({}, meta) | {"scores": scores}

    def _row(
        self, measure: Measure, scores: Tensor, at: int, *, n_bootstrap: int, seed: int
    ) -> dict[str, Any]:
        own, base = scores[at], scores[0]
        row = {
            "language": self.language,
            **{name[:-1]: getattr(self, name)[at] for name in ("models", "methods", "seeds")},
            **dataclasses.asdict(measure),
            "score": own.mean().item(),
            "stderr": _half_of_wilson(own) if measure.unit == "%" else standard_error(own),
            "n_documents": len(own),
        }
        row["language"] = self.language
        if at == 0:
            return row
        low, high = bootstrap_interval((own - base)[None], n_bootstrap=n_bootstrap, seed=seed)
        right_or_wrong = measure.unit == "%"
        p_value = (
            mcnemar_p_value(own, base)
            if right_or_wrong
            else bootstrap_p_value(own - base, n_bootstrap=n_bootstrap, seed=seed)
        )
        return row | {
            "base": base.mean().item(),
            "difference": (own - base).mean().item(),
            "low": low.item(),
            "high": high.item(),
            "p_value": p_value,
        }


def _half_of_wilson(scores: Tensor) -> float:
    low, high = wilson_interval(int((scores > 0).sum()), len(scores), z=1.0)
    return 100 * (high - low) / 2
