"""Measure several models, one in memory at a time, and keep earlier results."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.model_table import (
    CHOSEN_BY,
    ModelTable,
    caution,
    find_by_weights,
    of_same_base,
    replaced,
    union,
)
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.progress import progress
from lse_interp.models.hooked import HookedModel
from lse_interp.subnetworks.find import ModelChoice, require_runs_of

__all__ = ["measure_each"]

logger = logging.getLogger(__name__)

_TableT = TypeVar("_TableT", bound=ModelTable)


def measure_each(
    choices: Sequence[ModelChoice],
    path: Path,
    *,
    what: str,
    load: Callable[[Path], _TableT],
    measure: Callable[[ModelChoice, HookedModel], _TableT],
    config: Any,
    accept: Callable[[_TableT], None] = lambda earlier: None,
    by_weights: bool = True,
    sentences: Sequence[str] = (),
) -> _TableT:
    """Measure the models that an earlier result lacks, and write one result of all models.

    Models are told apart by their weights. Models of the earlier result that are not among
    `choices` stay in it. If the base model was trained again, the earlier result is dropped.

    Args:
        choices: The models, the base first.
        path: The file of the result.
        what: The result in words, as in "the alignment curves of mlt".
        load: Reads the earlier result, and refuses one of other settings.
        measure: Measures one model.
        config: The configuration of the command, with `model` and `overwrite`.
        accept: Refuses an earlier result of this base model that no model may be added to.
        by_weights: Whether models that the earlier result has are taken from it. Otherwise
            `measure` is called for every model.
        sentences: What is measured in the language trained. Models whose weights they chose are
            warned of, and marked in the provenance.

    Returns:
        The result of the models in `choices`, in their order.

    Raises:
        LseError: See `locked`, `ModelChoice.load`, `load`, `measure` and `accept`.
        MismatchError: A run of another base model, or an earlier result of another model.
    """
    parts: list[_TableT] = []
    chosen_by = {choice.label: choice.n_chosen_by(sentences) for choice in choices}
    if text := caution(chosen_by):
        logger.warning("%s", text)
    with locked(path, what=what):
        earlier = None if config.overwrite or not path.exists() else load(path)
        for choice in progress(choices, what, unit="model"):
            model = choice.load()
            if not parts:
                require_runs_of(model.info, choices)
                earlier = of_same_base(earlier, model.info.fingerprint, path=path, config=config)
                if earlier is not None:
                    accept(earlier)
            known = earlier if by_weights else None
            part = find_by_weights(known, model.info.fingerprint, label=choice.label)
            if part is None:
                part = measure(choice, model)
            else:
                logger.info("%s is measured already; --overwrite measures it again", choice.label)
            if "methods" in part.LABELS:
                part = replaced(part, methods=(choice.method,), seeds=(choice.seed,))
            parts.append(_marked(part, choice.label, chosen_by[choice.label]))
            # Two large models need not fit in memory together.
            del model
        table = _made_by(config, parts[0].concat(parts))
        _made_by(config, union(earlier, table)).save(path)
    logger.info("wrote %s", path)
    return table


def _marked(part: _TableT, label: str, n_sentences: int) -> _TableT:
    about = (part.provenance.get("measured") or {}).get(label) or {}
    measured = {label: {**about, CHOSEN_BY: n_sentences}}
    return replaced(part, provenance={**part.provenance, "measured": measured})


def _made_by(config: Any, table: _TableT) -> _TableT:
    measured = {k: v for k, v in table.provenance.items() if k == "measured"}
    return replaced(table, provenance=provenance(config, **measured))
