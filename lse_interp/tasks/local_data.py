"""Local copies of benchmarks: which files hold a split, and their rows.

| suffix      | a row is                                                                      |
|-------------|-------------------------------------------------------------------------------|
| `.jsonl`    | an object on a line                                                           |
| `.jsonl.gz` | the same                                                                      |
| `.parquet`  | a row; shards `<split>-00000-of-00002.parquet`, as the hub has them, are read |
| `.csv`      | a line under a header, cells quoted by `"` where they need it                 |
| `.tsv`      | the same, between tabs                                                        |

Text is UTF-8, with or without a byte order mark.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lse_interp.core.errors import CorpusError
from lse_interp.data.readers import listing

__all__ = ["SUFFIXES", "find_split", "read_rows"]

SUFFIXES: tuple[str, ...] = (".jsonl", ".jsonl.gz", ".parquet", ".csv", ".tsv")
"""Kinds of file that can be read."""


def find_split(root: Path, *, folders: Sequence[str], split: str) -> list[Path]:
    """Find the file of a split, or its parquet shards in their order.

    Args:
        root: folder of the benchmark.
        folders: folders below it that may hold the split, the first that does is taken; `.` is
            `root` itself.
        split: `test`, `validation`, ...

    Raises:
        CorpusError: no such file, several of them, or a shard that is missing.
    """
    for name in folders:
        folder = root / name
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        shards = [path for path in files if _n_shards(path, split)]
        whole = [path for path in files if path.name in [split + suffix for suffix in SUFFIXES]]
        found = whole + shards
        if len(whole) > 1 or (whole and shards):
            raise CorpusError(
                f"{folder} holds the split {split} more than once: "
                f"{', '.join(path.name for path in found)}. Keep one."
            )
        if shards and len(shards) != _n_shards(shards[0], split):
            raise CorpusError(
                f"{folder} should hold {_n_shards(shards[0], split)} shards of {split}; found "
                f"{', '.join(path.name for path in shards)}."
            )
        if found:
            return found
    raise CorpusError(_missing(root, folders=folders, split=split))


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each row stands, for messages, and the row.

    Raises:
        CorpusError: no row, not UTF-8, truncated, or not of the kind its name says.
    """
    read = {".parquet": _parquet, ".csv": _table, ".tsv": _table}.get(path.suffix, _jsonl)
    empty = True
    try:
        for number, row in read(path):
            empty = False
            yield f"{path}, {number}", row
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: {error}. Convert it with iconv.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path} cannot be decompressed: {error}. It is truncated or no gzip file; fetch it "
            f"again."
        ) from error
    if empty:
        raise CorpusError(f"{path} is empty: expected one row or more, found none.")


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    packed = path.suffix == ".gz"
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{path}, line {number} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise CorpusError(
                    f"{path}, line {number} should be a JSON object; found {type(row).__name__}."
                )
            yield f"line {number}", row


def _table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            for number, row in enumerate(rows, start=1):
                if None in row or None in row.values():
                    raise CorpusError(
                        f"{path}, row {number} should have {len(rows.fieldnames or ())} cells, as "
                        f"its header has. Cells with a line break, a quote or the delimiter in "
                        f'them stand between ".'
                    )
                yield f"row {number}", row
        except csv.Error as error:
            raise CorpusError(
                f'{path} cannot be read after line {rows.line_num}: {error}. A " in a cell is '
                f'written "", and the cell between ".'
            ) from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read as parquet: {error}. It is truncated or of another format; "
            f"fetch it again."
        ) from error


def _n_shards(path: Path, split: str) -> int:
    """Return the number of shards that a shard's name says, 0 for another file."""
    match = re.fullmatch(rf"{re.escape(split)}-\d+-of-(\d+)\.parquet", path.name)
    return int(match[1]) if match else 0


def _missing(root: Path, *, folders: Sequence[str], split: str) -> str:
    existing = [root / name for name in folders if (root / name).is_dir()]
    if not existing:
        existing = [next(folder for folder in root.absolute().parents if folder.is_dir())]
        if root.is_dir():
            existing = [root]
    below = [name for name in folders if name != "."]
    place = f"{root}/{{{','.join(below)}}}" if below else str(root)
    return (
        f"no file {split} ({', '.join(SUFFIXES)}) in {place}"
        f"{f' or {root}' if below and '.' in folders else ''}. "
        f"{' '.join(listing(folder) for folder in existing)}"
    )
