"""Files and folders on disk are replaced whole: a reader sees the old one or the new one.

Each is written under a hidden temporary name in the same folder and renamed. `remove_leftovers`
removes the temporary files of killed processes.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lse_interp.core.errors import WriteError

__all__ = [
    "remove_folder",
    "remove_leftovers",
    "reported",
    "write_atomic",
    "write_folder",
    "write_together",
]

_RANDOM = "[a-z0-9_]{8}"
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary sibling, then rename it onto `path`.

    A reader sees the old file or the new one, never a part; on failure the old file stays and
    the temporary one is removed.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to.
    """
    write_together({path: write})


def write_together(writes: Mapping[str | Path, Callable[[Path], Any]]) -> None:
    """Write files that belong together, as `write_atomic` does: none is replaced until all are.

    Args:
        writes: File -> what writes it; renamed in this order.

    Raises:
        WriteError: The disk is full, or a folder cannot be written to.
    """
    written: dict[Path, Path] = {}
    try:
        for path, write in writes.items():
            with reported(Path(path)):
                temporary = _temporary_file(Path(path))
                written[Path(path)] = temporary
                write(temporary)
                temporary.chmod(0o644)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        for path, temporary in written.items():
            with reported(path):
                temporary.replace(path)
    except BaseException:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
        raise


def write_folder(folder: str | Path, write: Callable[[Path], Any]) -> Path:
    """Call `write` on a new temporary sibling folder, then put it in the place of `folder`.

    On failure the old `folder` stays, and the temporary folder is removed. A process killed between
    the two renames leaves no folder, never a mixture.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to.
    """
    folder = Path(folder)
    with reported(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            write(temporary)
            # Some libraries write files that their owner alone can read.
            for path in (temporary, *temporary.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            remove_folder(folder)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def remove_folder(folder: str | Path) -> None:
    """Delete a folder, if there is one, at once: a killed process leaves no part of it in place."""
    folder = Path(folder)
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        folder.rename(aside)
        # What another process has open stays on some network mounts, for `remove_leftovers`.
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(path: str | Path) -> None:
    """Delete temporary files that killed processes left of a file and its twin, or in a folder.

    Only for the process that writes `path`: a file that another process is writing would be lost.
    """
    path = Path(path)
    names = {path.name, path.with_suffix(".json").name}
    _remove_temporary(path.parent, "|".join(re.escape(name) for name in sorted(names)))
    if path.is_dir():
        _remove_temporary(path, ".+")


def _temporary_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    return Path(name)


def _remove_temporary(folder: Path, names: str) -> None:
    pattern = re.compile(rf"\.({names})\.{_RANDOM}(\.\w+)?")
    for left in folder.iterdir():
        if pattern.fullmatch(left.name):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    left.unlink()


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn a failed write of a file or folder into a `WriteError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        there = next(parent for parent in path.absolute().parents if parent.exists())
        free = shutil.disk_usage(there).free / 1e6
        remedy = (
            "Give a folder that can be written to"
            if number in _NOT_ALLOWED
            else "Make room, and repeat the command"
        )
        raise WriteError(
            f"Could not write {path} ({error}); {free:,.0f} MB are free there. Nothing that was "
            f"there before is lost. {remedy}."
        ) from error
