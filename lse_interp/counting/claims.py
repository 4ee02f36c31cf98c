"""Which languages a run counts: not those that are finished, nor those that another run counts.

Finished counts are reused, or refused if they were made with other settings. With `overwrite`,
finished counts stay until new ones replace them. A file records what is being overwritten, so that
the same command, repeated after it was killed, counts what is left.
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lse_interp.artifacts.atomic import remove_folder, remove_leftovers, write_atomic
from lse_interp.artifacts.format import read_meta
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import FILE_NAME

__all__ = ["Claims", "shards_of"]

logger = logging.getLogger(__name__)


def shards_of(path: Path) -> Path:
    """Return the folder that keeps the shards of counts until all are finished."""
    return path.with_name(f"{path.name}.shards")


class Claims:
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
        self._record = paths.folder / "counts" / ".overwriting.json"
        self._locks: dict[str, contextlib.ExitStack] = {}

    def __enter__(self) -> "Claims":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After these errors a repeated command would only find the same shards again.
        is_over = error is None or isinstance(error, ArtifactError | MismatchError)
        # Another run may have put its own record in the place of this one's.
        if self._overwrite and self._locks and is_over and self._recorded() == self._asked:
            self._record.unlink(missing_ok=True)
        for lock in self._locks.values():
            lock.close()

    def take(self) -> list[str]:
        """Lock the languages to count, for all processes of the launch, and return them.

        Raises:
            MismatchError: Finished counts were made with other settings.
            LseError: A file is broken, or the folder cannot be written to.
        """
        todo = list(self._asked) if self._overwrite else self._unfinished(self._asked)
        # In one order for everyone, so that no two runs wait for each other.
        for language in sorted(todo):
            lock = locked(self._paths.counts(language), what=f"the counts of {language}")
            self._locks[language] = contextlib.ExitStack()
            self._locks[language].enter_context(lock)
        # Another run may have finished some of them before it let go.
        todo = self._to_overwrite() if self._overwrite else self._unfinished(todo)
        for language in self._asked:
            if language not in todo:
                self._tidy(language)
                continue
            shards = shards_of(self._paths.counts(language))
            remove_leftovers(shards)
            # The corpus may have changed since.
            (shards / FILE_NAME).unlink(missing_ok=True)
        return todo

    def release(self, language: str) -> None:
        """Delete the shards of a language whose counts are written, and unlock it."""
        remove_folder(shards_of(self._paths.counts(language)))
        self._locks[language].close()

    def _unfinished(self, languages: Iterable[str]) -> list[str]:
        return [language for language in languages if not self._is_finished(language)]

    def _is_finished(self, language: str) -> bool:
        path, asked = self._paths.counts(language), self._asked[language]
        if not path.exists():
            return False
        meta = read_meta(path, kind=ActivationCounts.KIND, version=ActivationCounts.VERSION)
        found = meta["provenance"].get("settings", {})
        if changed := differences({name: found.get(name) for name in asked}, asked):
            raise MismatchError(
                f"{path} was counted with other settings: {changed}. Pass --overwrite to count "
                "again, or --root to write elsewhere."
            )
        logger.info("%s is finished; reusing it (--overwrite to count again)", path)
        return True

    def _to_overwrite(self) -> list[str]:
        """Return the languages that a killed run of this command has left, or all of them."""
        left = [language for language in self._asked if self._is_pending(language)]
        if left and self._recorded() == self._asked:
            logger.info(
                "resuming a run that ended early: %d of %d languages are left",
                len(left),
                len(self._asked),
            )
            return left
        self._record.unlink(missing_ok=True)
        for language in self._asked:
            # Marks the language as pending until `release`.
            shards = shards_of(self._paths.counts(language))
            remove_folder(shards)
            shards.mkdir(parents=True)
        text = json.dumps(self._asked, indent=2)
        write_atomic(self._record, lambda out: out.write_text(text, encoding="utf-8"))
        return list(self._asked)

    def _is_pending(self, language: str) -> bool:
        return language in self._recorded() and shards_of(self._paths.counts(language)).exists()

    def _recorded(self) -> Mapping[str, Any]:
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _tidy(self, language: str) -> None:
        """Unlock a language that is finished, and delete what a killed run left of its shards."""
        path = self._paths.counts(language)
        if not self._overwrite and self._is_pending(language):
            logger.info("%s was to be replaced when a run was killed; --overwrite resumes it", path)
        elif shards_of(path).exists() or any(path.parent.glob(f".{path.name}.*")):
            # Whoever holds the lock does it, or counts again.
            with contextlib.suppress(LseError), locked(path, what=language, wait=False):
                remove_folder(shards_of(path))
                remove_leftovers(shards_of(path))
        if language in self._locks:
            self._locks.pop(language).close()
