"""Counting again what is finished (`--overwrite`): killed, it goes on when its command is repeated.

Finished counts stay until new ones take their place. A record beside them says which ones are to
be replaced, so that those that are new already are not counted once more.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.format import read_checksum
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError, MismatchError
from lse_interp.counting.counts import KIND

__all__ = ["begin", "is_pending", "left_over", "recorded"]

_Asked = Mapping[str, Mapping[str, Any]]


def begin(asked: _Asked, paths: RunPaths) -> None:
    """Record that the counts of these languages are to be replaced.

    Args:
        asked: Language -> what its counts are to be made with.
        paths: Where they are.
    """
    replaces = {language: _checksum(paths, language) for language in asked}
    text = json.dumps({"asked": _plain(asked), "replaces": replaces}, indent=2)
    write_atomic(_record(paths), lambda out: out.write_text(text, encoding="utf-8"))


def left_over(asked: _Asked, paths: RunPaths) -> list[str] | None:
    """Return the languages that a killed run of the same command has not replaced yet.

    None where no such run is on record.
    """
    found = _read(paths)
    if found.get("asked") != _plain(asked):
        return None
    replaces = found["replaces"]
    return [language for language in asked if _checksum(paths, language) == replaces[language]]


def is_pending(paths: RunPaths, language: str) -> bool:
    """Say whether a killed run was about to replace the counts of a language."""
    replaces = _read(paths).get("replaces", {})
    return language in replaces and replaces[language] == _checksum(paths, language)


@contextlib.contextmanager
def recorded(asked: _Asked, paths: RunPaths, *, is_on: bool) -> Iterator[None]:
    """Delete the record once everything is replaced, or where going on is of no use.

    What was killed, interrupted or out of disk is left on record.

    Args:
        asked: As `begin` took it.
        paths: Where the counts are.
        is_on: Whether this process overwrites, and keeps the record.
    """
    try:
        yield
    except (ArtifactError, MismatchError):
        # Shards that are damaged or of other text: the same command is to start afresh.
        _forget(asked, paths, is_on=is_on)
        raise
    _forget(asked, paths, is_on=is_on)


def _forget(asked: _Asked, paths: RunPaths, *, is_on: bool) -> None:
    # Another run may have put its own record in the place of this one's.
    if is_on and _read(paths).get("asked") == _plain(asked):
        _record(paths).unlink(missing_ok=True)


def _record(paths: RunPaths) -> Path:
    return paths.folder / "counts" / ".overwriting.json"


def _read(paths: RunPaths) -> dict[str, Any]:
    try:
        found = json.loads(_record(paths).read_text(encoding="utf-8"))
        return found if set(found) == {"asked", "replaces"} else {}
    except (OSError, ValueError):
        # Without it, counting starts afresh.
        return {}


def _checksum(paths: RunPaths, language: str) -> str | None:
    try:
        return read_checksum(paths.counts(language), kind=KIND)
    except ArtifactError:
        return None


def _plain(asked: _Asked) -> dict[str, Any]:
    return json.loads(json.dumps(asked, default=str))
