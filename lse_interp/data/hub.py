"""Hugging Face data sets, on the hub or in a local folder, streamed row by row.

The `datasets` library is imported when a data set is opened, not before.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language
from lse_interp.data.readers import as_text, require_field
from lse_interp.data.source_spec import expand, parse_options

if TYPE_CHECKING:
    from datasets import IterableDataset

__all__ = [
    "FLORES",
    "GLOTCC",
    "LOCAL_TEXT",
    "HubSource",
    "hub_sources",
    "open_rows",
    "read_column",
    "read_source",
]

GLOTCC = "hf:cis-lmu/GlotCC-V1?config={glotcc}&split=train&field=content"
"""GlotCC v1.0, the paper's training text: a configuration per language (`mlt-Latn`), one split,
the field `content`. The tests read local data of this schema, not the hub. Source: paper, section
4.1."""

FLORES = "openlanguagedata/flores_plus"
"""FLORES+ on the hub: a configuration per language, splits dev and devtest, fields id and text."""

LOCAL_TEXT = (
    "read local text: a file or folder (txt, jsonl, csv, parquet, ...) with {lang} for the "
    "language, or the corpus `embedded`"
)
"""What a user can read without the hub."""

_OPTIONS = ("config", "data_files", "field", "revision", "split")


@dataclass(frozen=True)
class HubSource:
    """One text column of one data set."""

    dataset: str
    config: str | None
    split: str
    field: str
    revision: str | None = None
    data_files: str | None = None

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in _OPTIONS}
        options = "&".join(f"{name}={value}" for name, value in parts.items() if value)
        return f"hf:{self.dataset}?{options}"


def hub_sources(spec: str, *, language: Language, split: str | None = None) -> list[HubSource]:
    """Read `hf:<data set>?config=...&split=...&field=...`, once per spelling of the language.

    Options are `config`, `split` (default `train`), `field` (default `text`), `revision` and
    `data_files`; each may hold `{lang}`, `{flores}`, `{glotcc}` or `{iso1}`.

    Raises:
        CorpusError: an unknown option, or a split that contradicts the one in `spec`.
    """
    sources = []
    for text in expand(spec.removeprefix("hf:"), language=language, split=split):
        dataset, options = parse_options(text, known=_OPTIONS)
        if split and options.get("split", split) != split:
            raise CorpusError(
                f"split {split!r} was asked for, but {spec!r} says split={options['split']}. "
                f"Give the split once."
            )
        sources.append(
            HubSource(
                dataset=dataset,
                config=options.get("config"),
                split=options.get("split", split or "train"),
                field=options.get("field", "text"),
                revision=options.get("revision"),
                data_files=options.get("data_files"),
            )
        )
    return sources


def open_rows(
    sources: Sequence[HubSource], *, instead: str = LOCAL_TEXT
) -> tuple["IterableDataset", HubSource]:
    """Open the first source that exists, as a stream that can be read again and again.

    Args:
        sources: One data set under every spelling of a language.
        instead: What the user can do without the hub, for errors.

    Raises:
        CorpusError: The hub cannot be reached, or no such data set, configuration or split.
    """
    failures: list[Exception] = []
    for source in sources:
        try:
            return _load(source), source
        except ConnectionError as error:
            raise CorpusError(
                f"{source.dataset} cannot be reached on the Hugging Face hub: {error}. Check the "
                f"network and HF_HUB_OFFLINE. Or {instead}."
            ) from error
        except (ValueError, OSError, RuntimeError, _datasets_error()) as error:
            failures.append(error)
    raise CorpusError(f"{_not_found(sources, failures[0])} Or {instead}.") from failures[0]


def read_source(rows: "IterableDataset", source: HubSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row of an opened source, for messages, and the row.

    Raises:
        CorpusError: A broken transfer, or rows that cannot be read.
    """
    where = f"{source.dataset} ({source.config or 'default'})"
    try:
        for number, row in enumerate(rows, start=1):
            yield f"{where}, row {number}", row
    except (OSError, _datasets_error()) as error:
        raise CorpusError(f"reading {where} broke off: {error}. Run again to resume.") from error
    except ValueError as error:
        raise CorpusError(
            f"{where} cannot be read: {' '.join(str(error).split())}. Give the path of local files "
            "without hf:, and the message names the line that is wrong."
        ) from error


def read_column(rows: "IterableDataset", source: HubSource) -> Iterator[str]:
    """Stream the documents of an opened source, blank ones left out.

    Raises:
        CorpusError: No such field, a field that is not text, no text, or a broken transfer.
    """
    found = False
    for where, row in read_source(rows, source):
        require_field(source.field, row, where=where)
        text = as_text(row[source.field], where=where, field=source.field)
        if text.strip():
            found = True
            yield text
    if not found:
        raise CorpusError(f"{source} holds no text.")


def _load(source: HubSource) -> "IterableDataset":
    import datasets

    rows = datasets.load_dataset(
        source.dataset,
        source.config,
        data_files=source.data_files,
        revision=source.revision,
        split=source.split,
        streaming=True,
    )
    if rows.column_names is not None:
        require_field(source.field, rows.column_names, where=str(source))
    return rows


def _datasets_error() -> type[Exception]:
    from datasets.exceptions import DatasetsError

    return DatasetsError


def _not_found(sources: Sequence[HubSource], error: Exception) -> str:
    source, reason = sources[0], str(error)
    available = re.findall(r"'([^']+)'", reason.partition("Available")[2])
    if reason.startswith("BuilderConfig") and available:
        tried = ", ".join(dict.fromkeys(str(s.config) for s in sources))
        close = near_misses(str(source.config), available)
        return f"{source.dataset} has no configuration {tried}. {close}"
    if "split" in reason and available:
        close = near_misses(source.split, available)
        return f"{source.dataset} has no split {source.split!r}. {close}"
    return (
        f"cannot open {source}: {reason[:400]} Check the name; for a data set behind terms, accept "
        f"them on its page and run `hf auth login`."
    )
