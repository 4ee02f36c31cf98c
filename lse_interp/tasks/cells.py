"""Cells of a benchmark's row: text, lists of texts, and the position of the right option.

Column names and their types are those of the data sets on the Hugging Face hub. A cell that a csv
or tsv file cannot hold (`choices`, `endings`, `translation`) is read from JSON text. Text is not
changed: HellaSwag's `[header]` and `[step]` and Winogrande's `_` stay in the prompt.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lse_interp.core.errors import CorpusError
from lse_interp.tasks.task import LETTERS

__all__ = [
    "Row",
    "nested_cell",
    "position_cell",
    "require_columns",
    "require_texts",
    "text_cell",
    "texts_cell",
]

Row = Mapping[str, Any]
"""Column -> cell."""


def require_columns(row: Iterable[str], columns: Sequence[str], *, where: str) -> None:
    """Raise a CorpusError that names the columns expected and found unless all are there."""
    found = list(row)
    missing = [name for name in columns if name not in found]
    if missing:
        raise CorpusError(
            f"{where} has no {' and no '.join(f'`{name}`' for name in missing)}: expected the "
            f"columns {', '.join(columns)}; found {', '.join(map(str, found)) or '(none)'}."
        )


def text_cell(row: Row, name: str, *, where: str) -> str:
    """Return a cell that should hold text."""
    value = row[name]
    if not isinstance(value, str):
        raise CorpusError(f"{where}: `{name}` should be text; found {value!r}.")
    return value


def texts_cell(row: Row, name: str, *, where: str) -> list[str]:
    """Return a cell that should hold the texts of 2 or more options."""
    return require_texts(nested_cell(row, name, kind=Sequence, where=where), name, where=where)


def position_cell(row: Row, name: str, *, first: int, n_options: int, where: str) -> int:
    """Return the position, from 0, that a cell gives as a number from `first`."""
    value = row[name]
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit():
        number = None
    else:
        number = int(text) - first
    if number is None or not 0 <= number < n_options:
        raise CorpusError(
            f"{where}: `{name}` should be the right option, {first} to {first + n_options - 1}; "
            f"found {value!r}. Splits without answers cannot be scored."
        )
    return number


def nested_cell(row: Row, name: str, *, kind: type, where: str) -> Any:
    """Return a cell that should hold a list or an object, or JSON text of one."""
    value = row[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{where}: `{name}` is text that is not JSON ({error}). In a csv or tsv file write "
                f"this column as JSON, or use jsonl or parquet."
            ) from error
    if not isinstance(value, kind) or isinstance(value, str):
        wanted = "a list" if kind is Sequence else "an object"
        raise CorpusError(f"{where}: `{name}` should be {wanted}; found {value!r}.")
    return value


def require_texts(values: Any, name: str, *, where: str) -> list[str]:
    """Return the texts of options, if there are 2 or more of them."""
    texts = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if not 2 <= len(texts) <= len(LETTERS) or not all(isinstance(text, str) for text in texts):
        raise CorpusError(
            f"{where}: `{name}` should be a list of 2 to {len(LETTERS)} texts; found {values!r}."
        )
    return texts
