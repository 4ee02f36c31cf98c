"""Checksums of files that another library writes, one or a folder: an adapter, a whole model.

The list of a folder is a file `SHA256SUMS` in it, in the form that `sha256sum -c SHA256SUMS` reads.
"""

import hashlib
from pathlib import Path

from lse_interp.core.errors import ArtifactError

__all__ = ["SUMS", "check_sums", "file_sha256", "write_sums"]

SUMS = "SHA256SUMS"


def write_sums(folder: str | Path) -> None:
    """List the checksums of all files in a folder, in a file next to them."""
    folder = Path(folder)
    found = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in _files(folder))
    (folder / SUMS).write_text(_sealed(found), encoding="utf-8")


def check_sums(folder: str | Path, *, remedy: str) -> None:
    """Compare the files of a folder with their checksums; files that are not listed may be added.

    Args:
        folder: Where `write_sums` was called.
        remedy: What to do about a damaged file, a sentence.

    Raises:
        ArtifactError: The list or a file is missing, or a file was altered.
    """
    folder = Path(folder)
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
        lines = text.splitlines()[:-1]
        if text != _sealed("".join(f"{line}\n" for line in lines)):
            raise ValueError("they were altered")
        listed = {name: found for found, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"The checksums of {folder} cannot be read ({error}). {remedy}"
        ) from error
    for name, expected in listed.items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name} is missing. {remedy}")
        if (found := file_sha256(folder / name)) != expected:
            raise ArtifactError(
                f"{folder / name} was altered after it was written: expected sha256 {expected}, "
                f"found {found}. {remedy}"
            )


def _sealed(lines: str) -> str:
    """End a list with its own checksum, in a comment, so that a lost line is noticed."""
    return f"{lines}# {hashlib.sha256(lines.encode()).hexdigest()}\n"


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != SUMS)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
