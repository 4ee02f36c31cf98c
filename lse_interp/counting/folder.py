"""The folder of counts: what is finished, what this run takes on, what a killed run left."""

import contextlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lse_interp.core.artifacts import RunPaths, read_meta
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.locks import locked
from lse_interp.core.settings import differences
from lse_interp.core.writing import remove_folder
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
        overwrite: Whether to take finished ones too, and to delete shards that are there.
        locks: Receives the lock of each of them, which its `close` lets go of.

    Returns:
        The languages to count, in the order of `asked`.

    Raises:
        MismatchError: Finished counts were made with other settings.
        LseError: A file is broken, or the folder cannot be written to.
    """

    def unfinished(among: Iterable[str]) -> list[str]:
        return [
            language
            for language in among
            if overwrite or not _is_finished(paths.counts(language), asked[language])
        ]

    todo = unfinished(asked)
    # In one order for everyone, so that no two runs wait for each other.
    for language in sorted(todo):
        lock = locked(paths.counts(language), what=f"the counts of {language}")
        locks[language] = contextlib.ExitStack()
        locks[language].enter_context(lock)
    # Another run may have finished some of them before it let go.
    todo = unfinished(todo) if not overwrite else todo
    for language in asked:
        if language in todo:
            _remove_left(paths.counts(language), shards=overwrite)
        else:
            _tidy(paths.counts(language), language)
            if language in locks:
                locks.pop(language).close()
    return todo


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


def _tidy(path: Path, language: str) -> None:
    """Delete what was left by a run that was killed just behind the last step of a language."""
    if shards_of(path).exists() or any(path.parent.glob(f".{path.name}.*")):
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
