r"""Local text files, streamed: the rows of a table, the texts of one of its columns, documents.

| suffix               | a row is                                                           |
|----------------------|--------------------------------------------------------------------|
| `.txt`               | a line, in the field `text`; `id` is its number                    |
| `.jsonl`, `.ndjson`  | an object on a line                                                |
| `.json`              | the same, or one list of objects                                   |
| `.csv`, `.tsv`       | a line under a header, cells quoted by `"` where they need it      |
| `.parquet`, `.arrow` | a row                                                              |

All but the last two may be packed: `.txt.gz`, `.bz2`, `.xz`, `.zst`. Other suffixes are read as
`.txt`; which of them count is decided by who finds the files (`local_files`). A document is the
text of one row; in a `.txt` with blank lines, a paragraph.

Text is UTF-8, with or without a byte order mark. Lines end in `\n`, `\r\n`, or `\r` in a file that
has no `\n`; blank lines at the end do not count. Half a surrogate pair, which JSON can spell and
Unicode cannot, becomes U+FFFD and is counted. `datasets` and pandas do not read the same: they
guess the types of cells, and their errors name neither the line nor the byte that is wrong.
"""

import contextlib
import csv
import functools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lse_interp.core.errors import CorpusError
from lse_interp.data.text_lines import PACKED, read_lines

__all__ = ["SUFFIXES", "as_text", "kind_of", "read_documents", "read_records", "read_rows"]

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Kinds of file that can be read."""

log = logging.getLogger(__name__)
# A text may be read several times; what is wrong with it is said once.
_warn_once = functools.cache(log.warning)

_Rows = Iterator[tuple[str, dict[str, Any]]]
_ROWS_PER_READ = 256
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_rows(
    *paths: Path, columns: Sequence[str] | None = None, header: Sequence[str] | None = None
) -> _Rows:
    """Yield the place of each row, for messages, and the row; memory holds a few rows.

    Args:
        paths: Files, of any kinds, one after the other.
        columns: Columns to read of parquet and arrow files, where each costs time; None reads all.
        header: Names of the cells of csv and tsv files that do not begin with them.

    Raises:
        CorpusError: Not UTF-8, truncated, or not of the kind its name says.
    """
    with _counted() as replaced:
        for path in paths:
            yield from _rows(path, columns, header, replaced)


def read_records(*paths: Path, field: str = "text") -> Iterator[str]:
    """Stream the texts of one column, blank ones included.

    Raises:
        CorpusError: See `read_rows`; or no such field, or one that is not text.
    """
    with _counted() as replaced:
        for path in paths:
            yield from _records(path, field, replaced)


def read_documents(*paths: Path, field: str = "text") -> Iterator[str]:
    """Stream the documents of some files, blank ones left out; memory holds one document.

    Args:
        paths: Files, of any kinds, one after the other.
        field: JSON key or column that holds the text.

    Raises:
        CorpusError: See `read_records`; or no text.
    """
    with _counted() as replaced:
        for path in paths:
            by_paragraph = kind_of(path) in ("", ".txt") and _has_paragraphs(path)
            records = _records(path, field, replaced)
            found = False
            for document in _paragraphs(records) if by_paragraph else records:
                if document.strip():
                    found = True
                    yield document
            if not found:
                raise CorpusError(f"{path} holds no text: every record in it is blank.")


def kind_of(path: Path, *, also: Iterable[str] = ()) -> str:
    """Return the suffix of a file without that of its packing; "" if it is no kind in `SUFFIXES`.

    Args:
        path: The file; the case of its suffix does not matter.
        also: More suffixes that count, in their own case.

    >>> kind_of(Path("mlt.TXT.gz")), kind_of(Path("notes.docx"))
    ('.txt', '')
    """
    suffix = path.with_suffix("").suffix if path.suffix.lower() in PACKED else path.suffix
    return suffix if suffix in also else suffix.lower() if suffix.lower() in SUFFIXES else ""


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


@contextlib.contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Count the characters that were replaced in each file, and say so once at the end."""
    replaced: Counter[str] = Counter()
    try:
        yield replaced
    finally:
        if replaced:
            files = ", ".join(list(replaced)[:3]) + ", ..." * (len(replaced) > 3)
            _warn_once(
                "%d lone surrogates (\\ud800 to \\udfff, half a character) were replaced by "
                "U+FFFD in %s",
                replaced.total(),
                files,
            )


def _rows(
    path: Path,
    columns: Sequence[str] | None,
    header: Sequence[str] | None,
    replaced: Counter[str],
) -> _Rows:
    kind = kind_of(path)
    if kind in (".parquet", ".arrow"):
        return _columnar(path, columns)
    if kind in (".csv", ".tsv"):
        return _table(path, header)
    return _json(path, replaced) if kind in (".json", ".jsonl", ".ndjson") else _text(path)


def _records(path: Path, field: str, replaced: Counter[str]) -> Iterator[str]:
    if kind_of(path) in ("", ".txt"):
        field = "text"
    for where, row in _rows(path, [field], None, replaced):
        require_field(field, row, where=where)
        yield as_text(row[field], where=where, field=field)


def _text(path: Path) -> _Rows:
    """Yield lines; blank ones once there is text after them."""
    blank = 0
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            blank += 1
            continue
        for before in range(number - blank, number):
            yield f"{path}, line {before}", {"id": before, "text": ""}
        blank = 0
        yield f"{path}, line {number}", {"id": number, "text": line.rstrip("\r\n")}


def _json(path: Path, replaced: Counter[str]) -> _Rows:
    lines = enumerate(read_lines(path), start=1)
    for number, line in lines:
        if not line.strip():
            continue
        if kind_of(path) == ".json" and line.lstrip().startswith("["):
            whole = _parse(line + "".join(rest for _, rest in lines), path, number, replaced)
            rows = [(f"{path}, row {n}", row) for n, row in enumerate(whole, start=1)]
        else:
            rows = [(f"{path}, line {number}", _parse(line, path, number, replaced))]
        for where, row in rows:
            if not isinstance(row, dict):
                raise CorpusError(f"{where}: expected a JSON object, found {type(row).__name__}.")
            yield where, row


def _parse(text: str, path: Path, line: int, replaced: Counter[str]) -> Any:
    try:
        value = json.loads(text.rstrip())
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        wanted = "one object a line" + ", or a list of objects" * (kind_of(path) == ".json")
        raise CorpusError(
            f"{path}, line {line} is not JSON: {getattr(error, 'msg', error)}. Expected {wanted}."
        ) from error
    if "\\ud" in text or "\\uD" in text:
        clean, n = _SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
        if n:
            replaced[str(path)] += n
            value = json.loads(clean)
    return value


def _table(path: Path, header: Sequence[str] | None) -> _Rows:
    # A cell may hold a whole document.
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    rows = csv.DictReader(read_lines(path), header, delimiter=delimiter, strict=True)
    last = 0
    try:
        names, last = rows.fieldnames or (), rows.line_num
        if doubled := [name for name, n in Counter(names).items() if n > 1]:
            raise CorpusError(f"{path} has two columns called {doubled[0]!r}. Rename one of them.")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                raise CorpusError(
                    f"{where} should have {len(names)} cells, as its header has. "
                    'Cells with a line break, a quote or the delimiter in them need " around them.'
                )
            yield where, row
            last = rows.line_num
    except csv.Error as error:
        raise CorpusError(
            f'{path}, line {last + 1} cannot be read: {error}. A " in a cell is written "", and '
            'the cell between ".'
        ) from error


def _columnar(path: Path, columns: Sequence[str] | None) -> _Rows:
    import pyarrow

    try:
        rows = (row for batch in _batches(path, columns) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{path} cannot be read as {kind_of(path)[1:]}: {error}. If it is truncated or of "
            "another format, fetch or write it again."
        ) from error


def _batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow.parquet

    def require(names: Sequence[str]) -> None:
        for name in columns or ():
            require_field(name, names, where=str(path))

    if kind_of(path) == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            require(file.schema_arrow.names)
            yield from file.iter_batches(batch_size=_ROWS_PER_READ, columns=columns)
        return
    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
        require(stream.schema.names)
        for batch in stream:
            kept = batch.select(columns) if columns else batch
            for at in range(0, kept.num_rows, _ROWS_PER_READ):
                yield kept.slice(at, _ROWS_PER_READ)


def _has_paragraphs(path: Path) -> bool:
    """Say whether there is a blank line between two lines of text."""
    gap = text_before = False
    for line in read_lines(path):
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
