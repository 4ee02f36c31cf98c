"""Local text files: which files hold a language, and the documents in them, streamed.

| suffix      | a record is            | a document is                                            |
|-------------|------------------------|----------------------------------------------------------|
| `.txt`      | a line                 | a paragraph between blank lines; a line if none is blank |
| `.jsonl`    | the field of an object | the same                                                 |
| `.jsonl.gz` | the field of an object | the same                                                 |
| `.parquet`  | the cell of a column   | the same                                                 |

Text is UTF-8, with or without a byte order mark. Documents without a visible character are no
documents: they are passed over.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language
from lse_interp.data.source_spec import expand, names_language, spellings

__all__ = ["SUFFIXES", "find_files", "listing", "read_documents", "read_records"]

SUFFIXES: tuple[str, ...] = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
"""Kinds of file that can be read."""

log = logging.getLogger(__name__)

_ROWS_PER_READ = 256


def find_files(template: str, *, language: Language, split: str | None = None) -> list[Path]:
    """Find the files that hold a language.

    A template with `{lang}` is tried with every spelling of the language. A folder that is not
    spelt by language must hold a file (`mlt.txt`) or a folder (`mlt/`) named by one of the
    spellings; inside a folder of the language every readable file counts, sorted by path.

    Args:
        template: path of a file or folder, with placeholders or without.
        language: the language wanted.
        split: what `{split}` becomes.

    Raises:
        CorpusError: nothing there, nothing of that language, nothing readable, or an empty file.
    """
    candidates = [Path(t).expanduser() for t in expand(template, language=language, split=split)]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise CorpusError(_missing(candidates, language))
    of_language = names_language(template) or _stem(found) in spellings(language)
    if found.is_dir() and not of_language:
        found = _named_by(found, language)
    files = _readable_files(found) if found.is_dir() else [found]
    for path in files:
        _kind(path)
        if path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty: expected text, found 0 bytes.")
    return files


def read_documents(path: Path, *, field: str = "text") -> Iterator[str]:
    """Stream the documents of one file; memory stays at one document.

    Args:
        path: a file of a kind in `SUFFIXES`.
        field: JSON key or parquet column that holds the text.

    Raises:
        CorpusError: no text at all, not UTF-8, broken, or without the field.
    """
    by_paragraph = _kind(path) == ".txt" and _has_paragraphs(path)
    records = read_records(path, field=field)
    found = False
    for document in _paragraphs(records) if by_paragraph else records:
        if document.strip():
            found = True
            yield document
    if not found:
        raise CorpusError(f"{path} holds no text: every record in it is blank.")


def read_records(path: Path, *, field: str = "text") -> Iterator[str]:
    """Stream the records of one file, blank ones included.

    Raises:
        CorpusError: not UTF-8, broken, or without the field.
    """
    kind = _kind(path)
    if kind == ".parquet":
        return _parquet(path, field)
    return _lines(path) if kind == ".txt" else _jsonl(path, field)


def listing(folder: Path, *, limit: int = 12) -> str:
    """Say what a folder holds, for an error message."""
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{folder} holds: {shown or '(nothing)'}."


def _lines(path: Path) -> Iterator[str]:
    """Yield lines cut at newlines only: U+2028 and the like are text."""
    packed = path.name.endswith(".gz")
    offset = 0
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            for raw in stream:
                line = _decode(raw, path, offset).rstrip("\r\n")
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


def _jsonl(path: Path, field: str) -> Iterator[str]:
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
        require_field(field, row, where=where)
        yield as_text(row[field], where=where, field=field)


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            require_field(field, file.schema_arrow.names, where=str(path))
            for batch in file.iter_batches(batch_size=_ROWS_PER_READ, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield as_text(value, where=str(path), field=field)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read as parquet: {error}. It is truncated or of another format; "
            f"fetch or write it again."
        ) from error


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


def _has_paragraphs(path: Path) -> bool:
    """Say whether a blank line stands between two lines of text."""
    gap = text_before = False
    for line in _lines(path):
        if not line.strip():
            gap = text_before
        elif gap:
            log.info("%s has blank lines: a document is what stands between them", path)
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


def _kind(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise CorpusError(f"{path}: cannot read this kind of file. Expected {', '.join(SUFFIXES)}.")


def _stem(path: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)


def _readable_files(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name.endswith(SUFFIXES)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise CorpusError(
            f"no file to read in {folder}: expected {', '.join(SUFFIXES)}. {listing(folder)}"
        )
    return files


def _named_by(folder: Path, language: Language) -> Path:
    entries = [p for p in sorted(folder.iterdir()) if p.is_dir() or p.name.endswith(SUFFIXES)]
    matches = [entry for entry in entries if _stem(entry) in spellings(language)]
    if len(matches) > 1:
        raise CorpusError(
            f"{folder} holds {language.name} more than once: "
            f"{', '.join(match.name for match in matches)}. Name the one to read."
        )
    if matches:
        return matches[0]
    raise CorpusError(
        f"{folder} has no file or folder for {language.name}: looked for the names "
        f"{', '.join(spellings(language))} with {', '.join(SUFFIXES)}. {listing(folder)} "
        f"Put the language into the path as {{lang}}, e.g. {folder}/corpus-{{lang}}.txt, or the "
        f"files of the language into a folder {language.code}/."
    )


def _missing(candidates: list[Path], language: Language) -> str:
    wanted = candidates[0]
    folder = next(parent for parent in wanted.absolute().parents if parent.is_dir())
    tried = ", ".join(map(str, candidates))
    names = [entry.name for entry in folder.iterdir()]
    missing_part = wanted.absolute().relative_to(folder).parts[0]
    close = near_misses(missing_part, names)
    hint = f" {close}" if close.startswith("Did you mean") else ""
    return f"no text for {language.name} ({language.code}) at {tried}. {listing(folder)}{hint}"
