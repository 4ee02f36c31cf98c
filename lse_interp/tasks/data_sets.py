"""DataSet: where the rows of a benchmark are, on the Hugging Face hub or in a local copy.

Local copies replace the hub, in a folder laid out as

    <data_dir>/<name>/<configuration>/<split>.jsonl     or any other kind that `readers` reads
    <data_dir>/<name>/<split>/<configuration>.jsonl     for a benchmark of many languages
    <data_dir>/<name>/<split>.jsonl                     for a benchmark of English

or as the owner of the benchmark distributes it (`files`), or any of these below `data/`: e.g.
`belebele/est_Latn.jsonl`, `flores/devtest/est_Latn.devtest`, `arc_easy/validation.parquet`. A
language may have any spelling of its code (`est_Latn`, `ekk_Latn`, `ekk`, `est`, `et`). Columns are
those of the hub; `from_owner` translates others.

If a data set on the hub cannot be opened, the hub's own parquet copy of it (`refs/convert/parquet`)
is tried. The tests read local files of these columns in every format, and local data sets through
the code that reads the hub; they do not reach the hub itself.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import Language, find_language
from lse_interp.data.hub import HubSource, open_rows, read_source
from lse_interp.data.local_files import find_split
from lse_interp.data.readers import read_records, read_rows
from lse_interp.tasks.cells import Row, require_columns

__all__ = ["DataSet", "flores_codes"]

_Rows = Iterator[tuple[str, Row]]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of the hub."""

    hub: str
    """Its id on the Hugging Face hub."""
    split: str
    columns: tuple[str, ...]
    """The columns that are read."""
    config: str | None = None
    """Configuration, for a data set of only English."""
    configs_of: Callable[[Language], Sequence[str]] | None = None
    """Spellings of the configuration of a language, the best first; none for one that it lacks."""
    folders: tuple[str, ...] = ()
    """What the folder of a local copy may be called, besides the name of the benchmark."""
    files: tuple[str, ...] = ()
    """Where its owner's own files have the split; `{config}` is the configuration."""
    header: tuple[str, ...] | None = None
    """Names of the cells of its owner's csv files, if these do not begin with them."""
    labels: str | None = None
    """The column that its owner keeps in a file of its own, `<name>-labels.lst`."""
    from_owner: Callable[[Row], Row] | None = None
    """Give a row of its owner's files the columns of the hub; other rows stay as they are."""

    def configs(self, language: Language) -> tuple[str, ...]:
        """Return the spellings of the configuration that has a language."""
        if self.configs_of is None:
            return (self.config,) if self.config else ()
        return tuple(self.configs_of(language))

    def rows(self, name: str, language: Language, *, data_dir: Path | None) -> _Rows:
        """Yield the place of each row, for messages, and the row, its columns checked.

        Args:
            name: The folder of a local copy.
            language: The language.
            data_dir: Folder of all local copies; None reads the hub.

        Raises:
            CorpusError: A language that is missing, no file, a broken file, or other columns; or
                a hub that cannot be reached.
        """
        if self.configs_of is not None and not self.configs(language):
            raise CorpusError(f"{self.hub} has no {language.name} ({language.code}): leave it out.")
        found = (
            self._hub(name, language) if data_dir is None else self._local(name, language, data_dir)
        )
        for where, row in found:
            require_columns(row, self.columns, where=where)
            yield where, row

    def _folders(self, language: Language) -> list[str]:
        """List the folders a local copy may be in, the hub's configuration first."""
        return [*self.configs(language), "." if self.configs_of is None else "{lang}"]

    def _local(self, name: str, language: Language, data_dir: Path) -> _Rows:
        roots = [data_dir / folder for folder in (name, *self.folders)]
        root = next((root for root in roots if root.is_dir()), roots[0])
        configs = self._folders(language)
        names = [f"{config}/{self.split}" for config in configs]
        if self.configs_of is not None:
            names += [f"{self.split}/{config}" for config in configs]
        names += [file.format(config=config) for config in configs for file in self.files]
        names = list(
            dict.fromkeys(Path(place, n).as_posix() for place in ("", "data") for n in names)
        )
        files = find_split(root, names=names, language=language)
        header, first = None, next(read_rows(*files), None)
        cells = first[1].keys() if first else set(self.header or ())
        if self.header and len(cells) == len(self.header) and not set(self.columns) <= cells:
            header = self.header
            first = next(read_rows(*files, header=header), None)
        if first is None:
            raise CorpusError(f"{files[0]} is empty: expected one row or more, found none.")
        rows: _Rows = read_rows(*files, header=header)
        if self.labels is not None and self.labels not in first[1]:
            rows = _labelled(rows, files[0], column=self.labels)
        for where, row in rows:
            yield where, row if self.from_owner is None else self.from_owner(row)

    def _hub(self, name: str, language: Language) -> _Rows:
        configs: tuple[str | None, ...] = self.configs(language) or (None,)
        field = self.columns[0]
        sources = [HubSource(self.hub, config, self.split, field) for config in configs]
        sources += [
            # Files named one by one are all of the split `train`.
            HubSource(
                dataset=self.hub,
                config=None,
                split="train",
                field=field,
                revision="refs/convert/parquet",
                data_files=f"{config or 'default'}/{self.split}/*.parquet",
            )
            for config in configs
        ]
        folder = self._folders(language)[0]
        place = "/".join(["DATA", name, *([folder] if folder != "." else [])])
        instead = f"pass --data-dir DATA with a local copy {place}/{self.split}.jsonl"
        yield from read_source(*open_rows(sources, instead=instead))


def flores_codes(language: Language, codes: frozenset[str]) -> tuple[str, ...]:
    """Return the spellings of a language among codes of the FLORES form, none if it is missing.

    >>> from lse_interp.core.languages import lookup
    >>> flores_codes(lookup("ekk"), frozenset({"est_Latn"}))
    ('est_Latn',)
    """
    return tuple(code for code in sorted(codes) if find_language(code) == language)


def _labelled(rows: _Rows, path: Path, *, column: str) -> _Rows:
    """Add the lines of `<name>-labels.lst` to the rows of `<name>.jsonl`, if there is that file."""
    labels = path.with_name(f"{path.name.split('.')[0]}-labels.lst")
    if not labels.is_file():
        yield from rows
        return
    found, texts = list(rows), list(read_records(labels))
    if len(found) != len(texts):
        raise CorpusError(
            f"{labels} should have a line for each row of {path.name}: expected {len(found)}, "
            f"found {len(texts)}."
        )
    for (where, row), text in zip(found, texts, strict=True):
        yield where, {**row, column: text}
