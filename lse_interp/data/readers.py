"""Local text files, streamed: the rows of a table, the texts of one of its columns, documents.

| suffix      | a row is                                                                  |
|-------------|---------------------------------------------------------------------------|
| `.txt`      | a line, cut at newlines only, in the field `text`                         |
| `.jsonl`    | an object on a line                                                       |
| `.jsonl.gz` | the same                                                                  |
| `.parquet`  | a row                                                                     |
| `.csv`      | a line under a header, cells quoted by `"` where they need it             |
| `.tsv`      | the same, between tabs                                                    |

A document is the text of one row; in a `.txt` with blank lines, a paragraph. Text is UTF-8, with
or without a byte order mark. `datasets` and pandas do not read the same: they guess the types of
cells, and their errors name neither the line nor the byte that is wrong.
"""

import csv
import gzip
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lse_interp.core.errors import CorpusError

__all__ = ["SUFFIXES", "as_text", "read_documents", "read_records", "read_rows", "suffix_of"]

SUFFIXES: tuple[str, ...] = (".txt", ".jsonl", ".jsonl.gz", ".parquet", ".csv", ".tsv")
"""Kinds of file that can be read."""

log = logging.getLogger(__name__)

_Rows = Iterator[tuple[str, dict[str, Any]]]
_ROWS_PER_READ = 256


def read_rows(path: Path, *, columns: Sequence[str] | None = None) -> _Rows:
    """Yield the place of each row, for messages, and the row; memory holds a few rows.

    Args:
        path: A file of a kind in `SUFFIXES`.
        columns: Columns to read of a parquet file, where each costs time; None reads all.

    Raises:
        CorpusError: Not UTF-8, truncated, or not of the kind its name says.
    """
    kind = suffix_of(path)
    if kind == ".parquet":
        return _parquet(path, columns)
    if kind == ".txt":
        return ((str(path), {"text": line.rstrip("\r\n")}) for line in _lines(path))
    return _jsonl(path) if kind.startswith(".jsonl") else _table(path)


def read_records(path: Path, *, field: str = "text") -> Iterator[str]:
    """Stream the texts of one column, blank ones included.

    Raises:
        CorpusError: See `read_rows`; or no such field, or one that is not text.
    """
    if suffix_of(path) == ".txt":
        field = "text"
    for where, row in read_rows(path, columns=[field]):
        require_field(field, row, where=where)
        yield as_text(row[field], where=where, field=field)


def read_documents(path: Path, *, field: str = "text") -> Iterator[str]:
    """Stream the documents of one file, blank ones left out; memory holds one document.

    Args:
        path: A file of a kind in `SUFFIXES`.
        field: JSON key or column that holds the text.

    Raises:
        CorpusError: See `read_records`; or no text.
    """
    by_paragraph = suffix_of(path) == ".txt" and _has_paragraphs(path)
    records = read_records(path, field=field)
    found = False
    for document in _paragraphs(records) if by_paragraph else records:
        if document.strip():
            found = True
            yield document
    if not found:
        raise CorpusError(f"{path} holds no text: every record in it is blank.")


def suffix_of(path: Path) -> str:
    """Return the kind of a file, one of `SUFFIXES`.

    Raises:
        CorpusError: Another kind.
    """
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise CorpusError(f"{path}: cannot read this kind of file. Expected {', '.join(SUFFIXES)}.")


def require_field(field: str, found: Iterable[str], *, where: str) -> None:
    """Raise a CorpusError unless `field` is among the fields `found`."""
    names = list(found)
    if field not in names:
        raise CorpusError(
            f"{where} has no field {field!r}; it has: {', '.join(names) or '(none)'}. "
            f"Name the one that holds the text with ?field=<name> after the path or data set."
        )


def as_text(value: Any, *, where: str, field: str) -> str:
    """Return a field's value as text; null is a blank record, anything else but text an error."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}: the field {field!r} holds {type(value).__name__}, expected text."
        )
    return value


def _lines(path: Path) -> Iterator[str]:
    """Yield lines with their ends, cut at newlines only: U+2028 and the like are text."""
    packed = path.name.endswith(".gz")
    offset = 0
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            for raw in stream:
                line = _decode(raw, path, offset)
                yield line if offset else line.removeprefix("\ufeff")
                offset += len(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path} cannot be decompressed: {error}. It is truncated or no gzip file; "
            f"fetch it again, or check it with: gzip -t '{path}'"
        ) from error


def _decode(raw: bytes, path: Path, offset: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise CorpusError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset "
            f"{offset + error.start} ({error.reason}). Convert it, naming the encoding it is in: "
            f"iconv -f {guess} -t UTF-8 '{path}' > converted.txt"
        ) from error


def _jsonl(path: Path) -> _Rows:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{where} is not JSON: {error}. Expected one object a line."
            ) from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: expected a JSON object, found {type(row).__name__}.")
        yield where, row


def _table(path: Path) -> _Rows:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = csv.DictReader(_lines(path), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise CorpusError(
                    f"{path}, row {number} should have {len(rows.fieldnames or ())} cells, as its "
                    f"header has. Cells with a line break, a quote or the delimiter in them need "
                    f'" around them.'
                )
            yield f"{path}, row {number}", row
    except csv.Error as error:
        raise CorpusError(
            f'{path} cannot be read after line {rows.line_num}: {error}. A " in a cell is '
            f'written "", and the cell between ".'
        ) from error


def _parquet(path: Path, columns: Sequence[str] | None) -> _Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for name in columns or ():
                require_field(name, file.schema_arrow.names, where=str(path))
            batches = file.iter_batches(batch_size=_ROWS_PER_READ, columns=columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read as parquet: {error}. It is truncated or of another format; "
            f"fetch or write it again."
        ) from error


def _has_paragraphs(path: Path) -> bool:
    """Say whether there is a blank line between two lines of text."""
    gap = text_before = False
    for line in _lines(path):
        if not line.strip():
            gap = text_before
        elif gap:
            log.info("%s has blank lines: a document is a paragraph between them", path)
            return True
        else:
            text_before = True
    return False


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield "\n".join(paragraph)
