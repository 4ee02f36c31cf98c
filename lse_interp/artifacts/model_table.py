"""ModelTable: the base class of results of several models. It selects, renames and joins models."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lse_interp.artifacts.reuse import changed_options, differences, refusal, require_same_settings
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import LseError, MismatchError, near_misses

__all__ = [
    "CHOSEN_BY",
    "ModelTable",
    "caution",
    "find_by_weights",
    "load_same_settings",
    "of_same_base",
    "replaced",
    "require_distinct",
    "union",
]

logger = logging.getLogger(__name__)

_TableT = TypeVar("_TableT", bound="ModelTable")

_BASE = "base"
_MEASURED = "measured"
CHOSEN_BY = "n_sentences_that_chose_the_weights"
"""Entry of the provenance of a model: how many of the sentences measured chose its weights."""
_OF_MODEL = ("model", "revision", "dtype", "bos")


class ModelTable(Stored):
    """Mixin for a frozen dataclass that holds results of several models, each under a label.

    If the provenance has an entry `measured`, it says by label how each model was measured.
    """

    LABELS: ClassVar[tuple[str, ...]]
    """Fields that are tuples with one entry per model; `models` is the first."""
    VALUES: ClassVar[tuple[str, ...]]
    """Fields that hold a tensor, or a tuple of tensors, whose first axis is the model."""
    SETUP: ClassVar[tuple[str, ...]]
    """Attributes that the numbers depend on besides the models; joined results agree in them."""

    if TYPE_CHECKING:

        @property
        def models(self) -> tuple[str, ...]:
            """Labels of the models."""

        @property
        def fingerprints(self) -> tuple[str | None, ...]:
            """Hash of the weights of each."""

        @property
        def provenance(self) -> Mapping[str, Any]:
            """What made the result."""

    @property
    def setup(self) -> dict[str, Any]:
        """Everything besides the models that the numbers depend on."""
        return {name: getattr(self, name) for name in self.SETUP}

    @property
    def caution(self) -> str:
        """Name the models whose weights the sentences measured chose; empty if there are none."""
        about = self.provenance.get(_MEASURED, {})
        return caution({model: (about.get(model) or {}).get(CHOSEN_BY, 0) for model in self.models})

    def position(self, model: str) -> int:
        """Return the place of a model on the axis `model`.

        Raises:
            LseError: No model of that label.
        """
        if model not in self.models:
            raise LseError(f"No model {model!r} here. {near_misses(model, self.models)}")
        return self.models.index(model)

    def select(self: _TableT, models: Sequence[str]) -> _TableT:
        """Keep some models, in the order given.

        Raises:
            LseError: No model of that label.
        """
        at = [self.position(label) for label in models]
        kept = {name: tuple(getattr(self, name)[i] for i in at) for name in self.LABELS}
        values = {name: _each(getattr(self, name), at) for name in self.VALUES}
        about = {label: label for label in models}
        return replaced(self, **kept, **values, **_about([self], about))

    def named(self: _TableT, models: Sequence[str]) -> _TableT:
        """Give the models other labels, in the order they have.

        Raises:
            MismatchError: A label twice, or more or fewer labels than models.
        """
        about = dict(zip(models, self.models, strict=False))
        return replaced(self, models=tuple(models), **_about([self], about))

    @classmethod
    def concat(cls: type[_TableT], parts: Sequence[_TableT]) -> _TableT:
        """Put the models of several results into one, in the order given.

        Raises:
            LseError: No part.
            MismatchError: Parts that were measured with other settings, values of other shapes,
                or a label twice.
        """
        if not parts:
            raise LseError("Nothing to put together; give at least one result.")
        first = parts[0]
        for part in parts[1:]:
            _require_joinable(first, part)
        joined = {n: tuple(v for p in parts for v in getattr(p, n)) for n in cls.LABELS}
        require_distinct(joined["models"])
        values = {name: _joined([getattr(part, name) for part in parts]) for name in cls.VALUES}
        about = {label: label for label in joined["models"]}
        return replaced(first, **joined, **values, **_about(parts, about))

    def check_models(self) -> None:
        """Check that labels differ, and that every model has an entry in each label and value.

        Raises:
            MismatchError: One of these does not hold.
        """
        found = [(name, len(getattr(self, name))) for name in self.LABELS]
        found += [(name, len(v)) for name in self.VALUES for v in _tensors(getattr(self, name))]
        if wrong := [f"{n} of {name}" for name, n in found if n != len(self.models)]:
            raise MismatchError(
                f"Each of the {len(self.models)} models needs an entry in every field; got "
                f"{', '.join(wrong)}."
            )
        require_distinct(self.models)


def caution(n_sentences: Mapping[str, int]) -> str:
    """Warn of models that were chosen by sentences they are measured on.

    Args:
        n_sentences: Model -> how many of the sentences chose its weights.
    """
    found = ", ".join(f"{model} ({n})" for model, n in n_sentences.items() if n)
    return found and (
        f"Caution: some of these sentences chose the weights of {found}, so the numbers of these "
        "models are too good. Measure other sentences: another --split or --parallel."
    )


def find_by_weights(
    earlier: _TableT | None, fingerprint: str | None, *, label: str
) -> _TableT | None:
    """Find one model in an earlier result by its weights, and return it under a label.

    A model may have another label now, as the base does when it is measured without runs.
    """
    pairs = zip(earlier.models, earlier.fingerprints, strict=True) if earlier else ()
    labels = [known for known, weights in pairs if weights == fingerprint]
    if earlier is None or not labels:
        return None
    return earlier.select([label if label in labels else labels[0]]).named((label,))


def union(earlier: _TableT | None, asked: _TableT) -> _TableT:
    """Add models to an earlier result: the base first, then in the order they came.

    If both have a label, the new model takes it. If all models are requested, they come in the
    requested order.

    Raises:
        MismatchError: See `ModelTable.concat`.
    """
    others: tuple[str, ...] = () if earlier is None else earlier.models[1:]
    if earlier is None or not {*others} - {*asked.models}:
        return asked
    if earlier.models[0] == _BASE and _BASE not in asked.models:
        asked = asked.named((_BASE, *asked.models[1:]))
    kept = [label for label in others if label not in asked.models]
    logger.info("kept from before, not measured now: %s (--overwrite drops them)", ", ".join(kept))
    order = dict.fromkeys((asked.models[0], *others, *asked.models))
    parts = [(asked if label in asked.models else earlier).select([label]) for label in order]
    return asked.concat(parts)


def of_same_base(
    earlier: _TableT | None, fingerprint: str | None, *, path: Path, config: Any
) -> _TableT | None:
    """Return an earlier result if it is of this base model; None if that was trained again.

    Args:
        earlier: The result; None for none.
        fingerprint: Hash of the weights of the base model now.
        path: The file of the result.
        config: The configuration of the command now, with `model`.

    Raises:
        MismatchError: Another prefix (`bos`) was requested; or the weights differ because another
            model, revision or dtype was.
    """
    if earlier is None:
        return None
    same = earlier.fingerprints[0] == fingerprint
    before = (earlier.provenance.get("config") or {}).get("model")
    if changed := changed_options(before, config.model, ("bos",) if same else _OF_MODEL):
        raise refusal(path, changed)
    if same:
        return earlier
    logger.info("%s is of other weights of this model, and out of date: measured again", path)
    return None


def replaced(table: _TableT, **fields: Any) -> _TableT:
    """Return a copy with other fields, as `dataclasses.replace` does."""
    return dataclasses.replace(table, **fields)  # type: ignore[type-var]


def load_same_settings(
    table: type[_TableT], path: Path, settings: Mapping[str, Any], *, config: Any
) -> _TableT:
    """Read an earlier result, and refuse one that was measured with other settings.

    Args:
        table: The class of the result.
        path: Its file.
        settings: The `setup` of the requested measurement.
        config: The configuration of the command now.

    Raises:
        ArtifactError: A file that cannot be read.
        MismatchError: Other settings.
    """
    earlier = table.load(path)
    about = earlier.provenance
    require_same_settings(path, earlier.setup, settings, provenance=about, config=config)
    return earlier


def require_distinct(labels: Sequence[str]) -> None:
    """Refuse one label for two models.

    Raises:
        MismatchError: A label twice.
    """
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise MismatchError(
            f"Every model needs a label of its own; {', '.join(twice)} stands for more than one. "
            "Name them as label=path."
        )


def _require_joinable(first: ModelTable, other: ModelTable) -> None:
    names = f"{', '.join(first.models)} and {', '.join(other.models)}"
    if changed := differences(first.setup, other.setup):
        raise MismatchError(
            f"{names} were not measured alike: {changed}. Measure both on the same text with the "
            "same settings."
        )
    for name in first.VALUES:
        tensors = zip(*(_tensors(getattr(part, name)) for part in (first, other)), strict=True)
        for one, two in tensors:
            if one.shape[1:] != two.shape[1:]:
                raise MismatchError(
                    f"{names} have `{name}` of shapes {list(one.shape[1:])} and "
                    f"{list(two.shape[1:])}. Compare models of one depth."
                )


def _tensors(values: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (values,) if isinstance(values, Tensor) else values


def _each(values: Any, at: list[int]) -> Any:
    return values[at] if isinstance(values, Tensor) else tuple(part[at] for part in values)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _about(parts: Sequence[ModelTable], labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance of a selection or a join; `labels` is new label -> old."""
    first = parts[0].provenance
    if _MEASURED not in first:
        return {}
    known = {k: v for part in parts for k, v in part.provenance.get(_MEASURED, {}).items()}
    return {"provenance": {**first, _MEASURED: {new: known.get(o) for new, o in labels.items()}}}
