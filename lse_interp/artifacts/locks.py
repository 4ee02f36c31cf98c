"""One process at a time makes an artefact; the others wait, and then find it finished.

The lock is the operating system's, on a hidden file next to the artefact, so it ends with the
process that holds it, however that ends. Reading needs no lock: files are replaced whole.
"""

import contextlib
import datetime
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from lse_interp.artifacts.atomic import remove_leftovers
from lse_interp.core.errors import LseError

__all__ = ["locked"]

logger = logging.getLogger(__name__)

_SWITCH = "LSE_LOCKS"
_SECONDS_BETWEEN_LOOKS = 0.1
_CANNOT_LOCK = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(path: str | Path, *, what: str, wait: bool = True) -> Iterator[None]:
    """Keep other processes from making an artefact while the `with` block does.

    Look for a finished artefact inside the block: another process may have made it meanwhile.
    Locks of one path nest within a thread. Temporary files that a killed process left of the
    artefact are removed. `LSE_LOCKS=off` in the environment takes no locks, for file systems
    that have none.

    Args:
        path: The artefact, a file or a folder; need not exist.
        what: The artefact in words, as in "the counts of mlt".
        wait: Whether to wait for another process, which is logged once; or to refuse.

    Raises:
        LseError: The folder cannot be written to, or its file system has no locks; or another
            process is making it and `wait` is False.
    """
    path = Path(path)
    if os.environ.get(_SWITCH, "").lower() == "off":
        yield
        return
    # Resolved, so that every spelling of a path is one lock.
    place = Path(os.path.realpath(path.parent)) / path.name
    lock = FileLock(place.with_name(f".{place.name}.lock"), is_singleton=True)
    note = place.with_name(f".{place.name}.holder")
    _acquire(lock, path, what=what, note=note, wait=wait)
    is_outermost = lock.lock_counter == 1
    try:
        if is_outermost:
            _sign(note)
            remove_leftovers(place)
        yield
    finally:
        if is_outermost:
            # Delete it while the lock is held: a waiting process sees that, and starts over.
            for file in (note, Path(lock.lock_file)):
                with contextlib.suppress(OSError):
                    file.unlink()
        lock.release()


def _acquire(lock: FileLock, path: Path, *, what: str, note: Path, wait: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = _holder(note)
            if not wait:
                raise LseError(
                    f"{holder} is making {what} ({path}). Repeat the command when it has ended."
                ) from None
            began = time.monotonic()
            logger.warning("waiting for %s, which is making %s (%s)", holder, what, path)
            lock.acquire(poll_interval=_SECONDS_BETWEEN_LOOKS)
            logger.warning("waited %.0f s for %s", time.monotonic() - began, what)
        if isinstance(lock, SoftFileLock):
            # The lock that filelock falls back to would outlive a killed process.
            lock.release()
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    except (OSError, NotImplementedError) as error:
        if _has_no_locks(error):
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
        raise _refusal(error, path, what=what) from error


def _refusal(error: Exception, path: Path, *, what: str) -> LseError:
    if _has_no_locks(error):
        return LseError(
            f"The file system of {path.parent} has no locks ({error}), which keep two processes "
            f"from making {what} at once. Set {_SWITCH}=off and see to it yourself that only one "
            "does, or write elsewhere (--root)."
        )
    return LseError(
        f"Could not write {what} into {path.parent} ({error}). Give a folder that can be written "
        "to (--root), or make room."
    )


def _has_no_locks(error: Exception) -> bool:
    return (
        isinstance(error, NotImplementedError)
        or isinstance(error, OSError)
        and error.errno in _CANNOT_LOCK
    )


def _sign(note: Path) -> None:
    """Write down who holds the lock, for processes that wait."""
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    # The lock works without this note.
    with contextlib.suppress(OSError):
        note.write_text(json.dumps(about), encoding="utf-8")


def _holder(note: Path) -> str:
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['host']} (since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
