"""The folder of counts: what is finished, what this run takes on, what a killed run left."""

import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lse_interp.artifacts.atomic import remove_folder
from lse_interp.artifacts.format import read_meta
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.counting import overwriting
from lse_interp.counting.counts import KIND, VERSION
from lse_interp.counting.texts import TEXT

__all__ = ["shards_of", "take"]

logger = logging.getLogger(__name__)


def shards_of(path: Path) -> Path:
    """Return the folder that keeps the shards of counts until all of them are there."""
    return path.with_name(f"{path.name}.shards")


def take(
    asked: Mapping[str, Mapping[str, Any]],
    paths: RunPaths,
    *,
    overwrite: bool,
    locks: dict[str, contextlib.ExitStack],
) -> list[str]:
    """Lock the languages whose counts are not there yet, on behalf of all processes of this run.

    Args:
        asked: What the counts of each language should have been made with.
        paths: Where they are.
        overwrite: Whether to take finished ones too, and to delete shards that are there; goes
            on where a killed run of the same command was.
        locks: Receives the lock of each of them, which its `close` lets go of.

    Returns:
        The languages to count, in the order of `asked`.

    Raises:
        MismatchError: Finished counts were made with other settings.
        LseError: A file is broken, or the folder cannot be written to.
    """
    todo = list(asked) if overwrite else _unfinished(asked, paths)
    # In one order for everyone, so that no two runs wait for each other.
    for language in sorted(todo):
        lock = locked(paths.counts(language), what=f"the counts of {language}")
        locks[language] = contextlib.ExitStack()
        locks[language].enter_context(lock)
    afresh = False
    if overwrite:
        todo, afresh = _to_overwrite(asked, paths)
    else:
        # Another run may have finished some of them before it let go.
        todo = _unfinished({language: asked[language] for language in todo}, paths)
    for language in asked:
        if language in todo:
            _remove_left(paths.counts(language), shards=afresh)
        else:
            _tidy(paths, language)
            if language in locks:
                locks.pop(language).close()
    return todo


def _unfinished(asked: Mapping[str, Mapping[str, Any]], paths: RunPaths) -> list[str]:
    return [
        language
        for language, settings in asked.items()
        if not _is_finished(paths.counts(language), settings)
    ]


def _to_overwrite(
    asked: Mapping[str, Mapping[str, Any]], paths: RunPaths
) -> tuple[list[str], bool]:
    """Return the languages to count again, and whether this begins with them or goes on."""
    left = overwriting.left_over(asked, paths)
    if left is None:
        overwriting.begin(asked, paths)
        return list(asked), True
    logger.info(
        "going on with a run that ended early: %d of %d languages are left", len(left), len(asked)
    )
    return left, False


def _is_finished(path: Path, asked: Mapping[str, Any]) -> bool:
    if not path.exists():
        return False
    found = read_meta(path, kind=KIND, version=VERSION)["provenance"].get("settings", {})
    if changed := differences({name: found.get(name) for name in asked}, asked):
        raise MismatchError(
            f"{path} was counted with other settings: {changed}. Pass --overwrite to count again, "
            "or --root to write elsewhere."
        )
    logger.info("%s is finished; reusing it (--overwrite to count again)", path)
    return True


def _tidy(paths: RunPaths, language: str) -> None:
    """Delete what was left by a run that was killed just behind the last step of a language."""
    path = paths.counts(language)
    if overwriting.is_pending(paths, language):
        logger.info(
            "%s was about to be replaced by a run that ended early: --overwrite goes on", path
        )
    elif shards_of(path).exists() or any(path.parent.glob(f".{path.name}.*")):
        # Whoever holds the lock is about to do it, or counts again.
        with contextlib.suppress(LseError), locked(path, what=language, wait=False):
            _remove_left(path, shards=True)


def _remove_left(path: Path, *, shards: bool) -> None:
    for left in path.parent.glob(f".{shards_of(path).name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    # The corpus may have changed since; and a part of its text may be left.
    for left in (shards_of(path) / TEXT, *shards_of(path).glob(f".{TEXT}.*")):
        left.unlink(missing_ok=True)
    if shards:
        remove_folder(shards_of(path))
