"""What becomes of a finished artefact: kept, added to, or refused where it was made otherwise.

An artefact of several models is a union: models that were not asked for stay in it.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.provenance import readable
from lse_interp.core.errors import MismatchError

__all__ = ["changed_options", "differences", "known_model", "of_base", "require_alike", "united"]


logger = logging.getLogger(__name__)

_BASE = "base"
_HASHES = ("neurons", "text")
_OF_TEXT = ("parallel", "split", "n_sentences")
_OF_MODEL = ("model", "revision", "dtype")
_REMEDY = "Pass --overwrite to measure again, or --root to write elsewhere."


def require_alike(
    path: Path,
    found: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    provenance: Mapping[str, Any],
    config: Any,
) -> None:
    """Refuse to replace a finished artefact that depends on other settings than those asked for.

    Args:
        path: The artefact.
        found: What its numbers depend on; hashes under `neurons` and `text`.
        asked: The same of the measurement asked for.
        provenance: That of the artefact; its configuration says what hashes stand for.
        config: The configuration of the stage now.

    Raises:
        MismatchError: they differ.
    """
    if not differences(found, asked):
        return
    # Hashes say little, and change with the languages.
    told = [differences(*(_without_hashes(values) for values in (found, asked)))]
    if found.get("text") != asked.get("text"):
        of_text = [name for name in _OF_TEXT if name not in found]
        told.append(changed_options(provenance.get("config"), config, of_text))
    if found.get("neurons") != asked.get("neurons"):
        told.append(changed_options(provenance.get("config"), config, ("neurons",)))
    changed = ", ".join(filter(None, told)) or differences(found, asked)
    raise MismatchError(f"{path} was measured with other settings: {changed}. {_REMEDY}")


def of_base(earlier: Any, fingerprint: str | None, *, path: Path, config: Any) -> Any:
    """Return an earlier artefact if it is of this base model; None if that was trained again.

    Args:
        earlier: The artefact; None for none.
        fingerprint: Hash of the weights of the base model now.
        path: The artefact's place.
        config: The configuration of the stage now, with `model`.

    Raises:
        MismatchError: the weights differ because another model, revision or dtype was asked for.
    """
    if earlier is None or earlier.fingerprints[0] == fingerprint:
        return earlier
    before = (earlier.provenance.get("config") or {}).get("model")
    if changed := changed_options(before, config.model, _OF_MODEL):
        raise MismatchError(f"{path} was measured with other settings: {changed}. {_REMEDY}")
    logger.info("%s is of other weights of this model, and out of date: made anew", path)
    return None


def known_model(earlier: Any, fingerprint: str | None, *, label: str) -> Any:
    """Find one model in an earlier artefact by its weights, and return it under a label.

    The base has another label beside runs than where it stands alone.
    """
    pairs = zip(earlier.models, earlier.fingerprints, strict=True) if earlier else ()
    labels = [known for known, weights in pairs if weights == fingerprint]
    if earlier is None or not labels:
        return None
    return earlier.select([label if label in labels else labels[0]]).named((label,))


def united(earlier: Any, asked: Any) -> Any:
    """Add models to those that are there: the base first, then in the order they came.

    A label that both have stands for the model asked for. Where all models are asked for, they
    come in the order asked.

    Raises:
        MismatchError: see `concat`.
    """
    others: tuple[str, ...] = () if earlier is None else earlier.models[1:]
    if earlier is None or not {*others} - {*asked.models}:
        return asked
    if earlier.models[0] == _BASE and _BASE not in asked.models:
        asked = asked.named((_BASE, *asked.models[1:]))
    kept = [label for label in others if label not in asked.models]
    logger.info("kept from before, not looked at now: %s (--overwrite drops them)", ", ".join(kept))
    order = dict.fromkeys((asked.models[0], *others, *asked.models))
    parts = [(asked if label in asked.models else earlier).select([label]) for label in order]
    return asked.concat(parts)


def changed_options(before: Mapping[str, Any] | None, config: Any, names: Sequence[str]) -> str:
    """Say in which options a configuration differs from that of an artefact's provenance.

    What the provenance does not say does not differ.
    """
    now = dataclasses.asdict(config)
    shared = [name for name in names if name in (before or {})]
    found = {name: _shown(before[name]) for name in shared} if before else {}
    return differences(found, {name: _shown(now[name]) for name in shared})


def _without_hashes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shown(value) for name, value in values.items() if name not in _HASHES}


def _shown(value: Any) -> Any:
    """Write a value alike, whether of a configuration or read from an artefact."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, Path) else value


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in which entries two sets of settings differ; empty where they agree.

    >>> differences({"n_tokens": 10, "bos": "block"}, {"n_tokens": 20, "bos": "block"})
    'n_tokens was 10, now 20'
    """
    return ", ".join(
        f"{name} was {found.get(name)}, now {asked.get(name)}"
        for name in sorted({*found, *asked})
        if _plain(found.get(name)) != _plain(asked.get(name))
    )


def _plain(value: Any) -> Any:
    return readable(value) if isinstance(value, str) else value
