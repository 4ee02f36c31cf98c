"""Reuse a finished artefact, make it again if it is out of date, refuse it under other settings.

Every command that finds its file already written decides here.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.provenance import readable
from lse_interp.core.errors import MismatchError

__all__ = [
    "changed_options",
    "differences",
    "find_finished",
    "refusal",
    "require_same_settings",
    "reuse_or_make",
]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_EXPLAINED = {"text": ("parallel", "split", "n_sentences"), "neurons": ("neurons",)}
_REMEDY = "Pass --overwrite to measure again, or --root to write elsewhere."
_LONGEST = 200


def reuse_or_make(
    path: str | Path,
    *,
    what: str,
    load: Callable[[Path], _T],
    matches: Callable[[_T], bool],
    make: Callable[[], _T],
    overwrite: bool = False,
) -> _T:
    """Return a finished artefact that matches; else make it, one process at a time.

    Reading takes no lock, so a finished artefact can be used where nothing can be written. After
    waiting for another process, the file is read again.

    Args:
        path: The artefact.
        what: The artefact in words, as in "the counts of mlt".
        load: Reads it.
        matches: Whether the artefact is the requested one; False means that it is out of date. It
            raises `MismatchError` if the artefact was made with other settings.
        make: Makes and saves it.
        overwrite: Make it even if it is finished.

    Raises:
        LseError: See `locked`.
    """

    def find() -> _T | None:
        return find_finished(path, load=load, matches=matches, overwrite=overwrite)

    found = find()
    if found is None:
        with locked(path, what=what):
            found = find()
            if found is None:
                if Path(path).exists() and not overwrite:
                    logger.info("%s is out of date: made again", path)
                return make()
    logger.info("%s is finished; --overwrite makes it again", path)
    return found


def find_finished(
    path: str | Path,
    *,
    load: Callable[[Path], _T],
    matches: Callable[[_T], bool],
    overwrite: bool = False,
) -> _T | None:
    """Return a finished artefact; None if there is none, it is out of date, or `overwrite`."""
    path = Path(path)
    if overwrite or not path.exists():
        return None
    found = load(path)
    return found if matches(found) else None


def require_same_settings(
    path: Path,
    found: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    provenance: Mapping[str, Any],
    config: Any,
) -> None:
    """Refuse to replace a finished artefact that was made with other settings.

    Args:
        path: The artefact.
        found: What its numbers depend on; hashes under `neurons` and `text`.
        asked: The same of the requested measurement.
        provenance: That of the artefact; its configuration explains the hashes.
        config: The configuration of the command now.

    Raises:
        MismatchError: They differ.
    """
    if not differences(found, asked):
        return
    # A hash says little, and changes with the languages: name the options that lead to it.
    told = [differences(*(_without_hashes(values) for values in (found, asked)))]
    for name, options in _EXPLAINED.items():
        if found.get(name) != asked.get(name):
            of_hash = [option for option in options if option == name or option not in found]
            told.append(changed_options(provenance.get("config"), config, of_hash))
    raise refusal(path, ", ".join(filter(None, told)) or differences(found, asked))


def refusal(path: Path, changed: str) -> MismatchError:
    """Say that a finished artefact was measured with other settings, and what to do."""
    return MismatchError(f"{path} was measured with other settings: {changed}. {_REMEDY}")


def changed_options(before: Mapping[str, Any] | None, config: Any, names: Sequence[str]) -> str:
    """Say in which options a configuration differs from that of an artefact's provenance.

    Options that the provenance does not mention are taken to be equal.
    """
    now = dataclasses.asdict(config)
    found = {name: _shown(before[name]) for name in names if name in before} if before else {}
    return differences(found, {name: _shown(now[name]) for name in found})


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in which entries two sets of settings differ; empty if they agree.

    >>> differences({"n_tokens": 10, "bos": "block"}, {"n_tokens": 20, "bos": "block"})
    'n_tokens was 10, now 20'
    """
    told = []
    for name in sorted({*found, *asked}):
        was, now = found.get(name), asked.get(name)
        if _plain(was) != _plain(now):
            text = f"{name} was {was}, now {now}"
            if name == "dtype" and was:
                text += f" (pass --dtype {str(was).removeprefix('torch.')} to keep it)"
            told.append(text if len(text) <= _LONGEST else f"{name} differs")
    return ", ".join(told)


def _without_hashes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shown(value) for name, value in values.items() if name not in _EXPLAINED}


def _shown(value: Any) -> Any:
    """Write a value in one form, whether from a configuration or from an artefact."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, Path) else value


def _plain(value: Any) -> Any:
    return readable(value) if isinstance(value, str) else value
