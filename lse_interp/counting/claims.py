"""Which languages a run counts: not those that are finished, nor those that another run counts.

Finished counts are reused, or refused if they were made with other settings. With `overwrite`, they
stay until new ones replace them. Its shards have a folder of their own, and stay there until all
languages are counted: the same command, repeated after it was killed, counts only what is left.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lse_interp.artifacts.atomic import remove_folder, remove_leftovers
from lse_interp.artifacts.format import read_meta
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import FILE_NAME

__all__ = ["Claims", "corpus_of", "shards_of"]

logger = logging.getLogger(__name__)


def corpus_of(path: Path) -> str | None:
    """Return the corpus that finished counts are of; None if there are none.

    Raises:
        ArtifactError: The file is broken.
    """
    return _settings(path).get("corpus") if path.exists() else None


def shards_of(path: Path, *, overwrite: bool = False) -> Path:
    """Return the folder that keeps the shards of counts until all are finished."""
    return path.with_name(f"{path.name}.{'new-shards' if overwrite else 'shards'}")


class Claims(contextlib.ExitStack):
    """The languages that a launch counts, held by its main process while the `with` block lasts.

    Args:
        asked: Language -> what its counts should have been made with.
        paths: Where they are.
        overwrite: Whether to count finished languages again.
    """

    def __init__(
        self, asked: Mapping[str, Mapping[str, Any]], paths: RunPaths, *, overwrite: bool
    ) -> None:
        self._asked = json.loads(json.dumps(asked, default=str))
        self._paths, self._overwrite = paths, overwrite
        self._locks: dict[str, contextlib.ExitStack] = {}
        super().__init__()

    def shards(self, language: str) -> Path:
        """Return the folder of a language's shards."""
        return shards_of(self._paths.counts(language), overwrite=self._overwrite)

    def take(self) -> list[str]:
        """Lock the languages to count, for all processes of the launch, and return them.

        Raises:
            MismatchError: Finished counts were made with other settings.
            LseError: A file is broken, or the folder cannot be written to.
        """
        todo = self._unfinished(self._asked)
        # In one order for everyone, so that no two runs wait for each other.
        for language in sorted(todo):
            lock = locked(self._paths.counts(language), what=f"the counts of {language}")
            self._locks[language] = self.enter_context(contextlib.ExitStack())
            self._locks[language].enter_context(lock)
            self.push(functools.partial(self._remove_shards, language))
        # Another run may have finished some of them before it let go.
        todo = self._unfinished(todo)
        for language in self._asked:
            if language not in todo:
                self._tidy(language)
                continue
            remove_leftovers(self.shards(language))
            # The corpus may have changed since.
            (self.shards(language) / FILE_NAME).unlink(missing_ok=True)
        return todo

    def release(self, language: str) -> None:
        """Let go of a language whose counts are written: delete its shards, and unlock it."""
        if not self._overwrite:
            remove_folder(self.shards(language))
            self._locks.pop(language).close()

    def _remove_shards(self, language: str, kind: type[BaseException] | None, *_: Any) -> None:
        """Delete all shards of a language that was counted again, unless the run has failed."""
        if self._overwrite and kind is None:
            remove_folder(self.shards(language))
            remove_folder(shards_of(self._paths.counts(language)))

    def _unfinished(self, languages: Iterable[str]) -> list[str]:
        return [language for language in languages if not self._is_finished(language)]

    def _is_finished(self, language: str) -> bool:
        path, asked = self._paths.counts(language), self._asked[language]
        if self._overwrite or not path.exists():
            return False
        found = _settings(path)
        if changed := differences({name: found.get(name) for name in asked}, asked):
            raise MismatchError(
                f"{path} was counted with other settings: {changed}. Pass --overwrite to count "
                "again, or --root to write elsewhere."
            )
        logger.info("%s is finished; reusing it (--overwrite to count again)", path)
        return True

    def _tidy(self, language: str) -> None:
        """Unlock a language that is finished, and delete what a killed run left of its shards."""
        path = self._paths.counts(language)
        if shards_of(path).exists() or any(path.parent.glob(f".{path.name}.*")):
            # Whoever holds the lock does it, or counts again.
            with contextlib.suppress(LseError), locked(path, what=language, wait=False):
                remove_folder(shards_of(path))
                remove_leftovers(shards_of(path))
        if language in self._locks:
            self._locks.pop(language).close()


def _settings(path: Path) -> dict[str, Any]:
    meta = read_meta(path, kind=ActivationCounts.KIND, version=ActivationCounts.VERSION)
    return meta["provenance"].get("settings", {})
