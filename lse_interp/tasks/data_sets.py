"""DataSet: where the rows of a benchmark are, on the Hugging Face hub or in a local copy.

Local copies replace the hub, in a folder laid out as

    <data_dir>/<name>/<configuration>/<split>.jsonl     (or .jsonl.gz, .parquet, .csv, .tsv)
    <data_dir>/<name>/<split>.jsonl                     for a benchmark of English, if you like

e.g. `data/belebele/est_Latn/test.jsonl`, `data/arc_easy/validation.parquet`. A folder of a language
may have any spelling of its code (`est_Latn`, `ekk_Latn`, `ekk`, `est`, `et`). Columns are those of
the hub.

If a data set on the hub cannot be opened, the hub's own parquet copy of it (`refs/convert/parquet`)
is tried. The tests read local files of these columns in every format, and local data sets through
the code that reads the hub; they do not reach the hub itself.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import Language, find_language
from lse_interp.data.hub import HubSource, open_rows, read_source
from lse_interp.data.local_files import find_split
from lse_interp.data.readers import read_rows
from lse_interp.data.source_spec import expand, spellings
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
        names = [*self.configs(language)]
        if self.configs_of is None:
            return [*names, "."]
        names += [*expand("{flores}", language=language), *spellings(language)]
        return list(dict.fromkeys(names))

    def _local(self, name: str, language: Language, data_dir: Path) -> _Rows:
        folders = self._folders(language)
        for path in find_split(data_dir / name, folders=folders, split=self.split):
            yield from _some(path)

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


def _some(path: Path) -> _Rows:
    """Read a file, which must have a row."""
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise CorpusError(f"{path} is empty: expected one row or more, found none.")
    yield from itertools.chain([first], rows)
