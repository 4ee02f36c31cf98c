"""Lines of text files, packed or not; errors name the file, the line and the byte."""

import io
import lzma
from collections.abc import Iterator
from pathlib import Path

from lse_interp.core.errors import CorpusError

__all__ = ["PACKED", "read_lines"]

PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
"""Suffixes of packed files, and what packs them."""

_BYTES_PER_READ = 1 << 20


def read_lines(path: Path) -> Iterator[str]:
    """Yield lines with their ends, cut at newlines only: U+2028 and the like are text.

    Raises:
        CorpusError: Not UTF-8, truncated, or a pointer of Git LFS.
    """
    offset = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        line = _decode(raw, f"{path}, line {number},", path, offset)
        yield line if offset else line.removeprefix("\ufeff")
        offset += len(raw)


def _raw_lines(path: Path) -> Iterator[bytes]:
    packing = PACKED.get(path.suffix.lower())
    try:
        with _open(path, packing) as stream:
            head = stream.read(_BYTES_PER_READ)
            if head.startswith(b"version https://git-lfs"):
                raise CorpusError(
                    f"{path} is a pointer of Git LFS, not the file itself. Run `git lfs pull` in "
                    "its repository."
                )
            end = b"\r" if b"\r" in head and b"\n" not in head else b"\n"
            while head:
                *lines, rest = head.split(end)
                yield from (line + end for line in lines)
                # The rest of a line, however long it is.
                more = [rest]
                while block := stream.read(_BYTES_PER_READ):
                    more.append(block)
                    if end in block:
                        break
                head = b"".join(more)
                if not block:
                    break
            if head:
                yield head
    except (OSError, EOFError, lzma.LZMAError) as error:
        what = "decompressed" if packing else "read"
        raise CorpusError(
            f"{path} cannot be {what}: {error}. If it is truncated or of another format, fetch it "
            "again."
        ) from error


def _open(path: Path, packing: str | None) -> io.BufferedIOBase:
    if packing is None:
        return path.open("rb")
    if packing == "xz":
        return lzma.open(path, "rb")
    # Reads files of several parts, which the `zstandard` package ends after the first.
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(path, compression=packing))


def _decode(raw: bytes, where: str, path: Path, offset: int) -> str:
    try:
        text = raw.decode("utf-8")
        if "\0" not in text:
            return text
        at, reason = raw.index(b"\0"), "text has no such byte"
    except UnicodeDecodeError as error:
        at, reason = error.start, error.reason
    guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw else "ISO-8859-1"
    raise CorpusError(
        f"{where} is not UTF-8: byte 0x{raw[at]:02x} at offset {offset + at} ({reason}). Convert "
        f"it, naming the encoding it is in: iconv -f {guess} -t UTF-8 '{path}' > converted.txt"
    )
