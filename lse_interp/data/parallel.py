"""Parallel sentences: the same index means the same sentence in every language.

| specification      | sentences                                                                |
|--------------------|--------------------------------------------------------------------------|
| `embedded`         | the corpus in this package, splits `dev` and `devtest` (default)         |
| `flores`           | FLORES+ on the Hugging Face hub, splits `dev` and `devtest` (default)    |
| `flores:<data set>`| a data set of the same schema on the hub                                 |
| `flores:<folder>`  | FLORES-200 or FLORES+ as unpacked: `devtest/mlt_Latn.devtest`, `.parquet`|
| `ntrex:<folder>`   | NTREX-128: `newstest2019-ref.<code>.txt`, `newstest2019-src.eng.txt`     |
| a folder           | one file per language: `<code>.txt`, a sentence a line, or another kind  |
|                    | that `readers` reads; with a split, also `<split>/<code>.txt` and so on  |
"""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lse_interp.core.errors import CorpusError, LanguageError
from lse_interp.core.languages import (
    PAPER_LANGUAGES,
    PAPER_REFERENCE,
    Language,
    by_code,
    codes_of,
    lookup,
)
from lse_interp.data import embedded
from lse_interp.data.hub import FLORES, HubSource, hub_sources, open_rows, read_source
from lse_interp.data.local_files import find_files, has_files, listing, match_paths
from lse_interp.data.readers import as_text, read_records, read_rows, require_field
from lse_interp.data.source_spec import parse_options, spellings

__all__ = [
    "VALIDATION_SPLITS",
    "ParallelText",
    "Sentences",
    "align_by_id",
    "as_parallel",
    "load_parallel",
    "load_with_reference",
    "with_reference",
]

VALIDATION_SPLITS = {"embedded": "dev", "flores": "dev", "ntrex": None}
"""Source with a name -> its split to validate on; None for its only one."""

logger = logging.getLogger(__name__)

_NTREX = ("newstest2019-src.{lang}.txt", "newstest2019-ref.{lang}.txt")


@dataclasses.dataclass(frozen=True)
class ParallelText:
    """Sentences of several languages, line by line translations of each other."""

    languages: tuple[str, ...]
    """ISO 639-3, in the requested order."""
    sentences: Mapping[str, tuple[str, ...]]
    """Language -> its sentences."""
    spec: str
    split: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", codes_of(self.languages))
        object.__setattr__(self, "sentences", by_code(self.sentences))
        if tuple(self.sentences) != self.languages or not self.languages:
            raise CorpusError(
                f"parallel text needs one language or more, each with sentences; got languages "
                f"{self.languages} and sentences for {tuple(self.sentences)}."
            )
        counts = {code: len(lines) for code, lines in self.sentences.items()}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{code} {n}" for code, n in counts.items())
            raise CorpusError(
                f"{self.spec} is not parallel: expected as many sentences in every language, "
                f"found {shown}."
            )
        if not len(self):
            raise CorpusError(f"{self.spec} holds no sentence.")
        for code, lines in self.sentences.items():
            blank = next((i for i, line in enumerate(lines, start=1) if not line.strip()), None)
            if blank:
                raise CorpusError(
                    f"{self.spec}: sentence {blank} of {code} is blank. Remove that line from "
                    f"every language, or fill it."
                )

    def __len__(self) -> int:
        """Number of sentences per language."""
        return len(self.sentences[self.languages[0]])

    def digest(self, languages: Sequence[str]) -> str:
        """Hash the sentences of some languages, in that order."""
        text = json.dumps(
            [self.sentences[code] for code in codes_of(languages)], ensure_ascii=False
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def require(self, languages: Sequence[str]) -> None:
        """Refuse languages whose sentences were not loaded.

        Raises:
            LanguageError: an unknown language, or some are missing.
        """
        missing = [code for code in codes_of(languages) if code not in self.languages]
        if missing:
            every = ", ".join(f'"{code}"' for code in (*self.languages, *missing))
            raise LanguageError(
                f"The sentences of {self.spec} were loaded without {', '.join(missing)}, for "
                f"{', '.join(self.languages)} alone. Load them for every language: "
                f'load_parallel("{self.spec}", languages=[{every}]).'
            )

    def first(self, n_sentences: int) -> "ParallelText":
        """Keep the first so many sentences, or all if there are fewer.

        Raises:
            CorpusError: the number is below 1.
        """
        lines = {code: lines[: max(0, n_sentences)] for code, lines in self.sentences.items()}
        return dataclasses.replace(self, sentences=lines)


def load_parallel(
    spec: str,
    *,
    languages: Sequence[str],
    optional: Sequence[str] = (),
    split: str | None = None,
    n_sentences: int | None = None,
) -> ParallelText:
    """Load the same sentences in several languages.

    Args:
        spec: one of the specifications in the table above.
        languages: any spellings that `lookup` knows; the result has our codes.
        optional: further languages, taken if the source has them; the log names the others.
        split: `dev` or `devtest` if the source has them (default devtest); for a folder, what
            `{split}` in its path becomes.
        n_sentences: take the first so many; None takes all.

    Raises:
        LanguageError: unknown language, or one the embedded corpus lacks.
        CorpusError: text missing, unequal in length, with blank lines, or too short.
    """
    records = [lookup(language) for language in languages]
    more = [lookup(language) for language in optional]
    codes = [record.code for record in (*records, *more)]
    if not records or len(set(codes)) < len(codes):
        raise CorpusError(
            f"expected one language or more, each once; got {(*languages, *optional)}."
        )
    read, has, split = _reader(spec, split)
    absent = [record.code for record in more if not has(record)]
    if absent:
        logger.info("%s has no sentences in %s: left out", spec, ", ".join(absent))
    records += [record for record in more if record.code not in absent]
    text = ParallelText(
        languages=tuple(record.code for record in records),
        sentences=read(records),
        spec=spec,
        split=split,
    )
    if n_sentences is None:
        return text
    if not 1 <= n_sentences <= len(text):
        raise CorpusError(
            f"{n_sentences} sentences were asked for, but {spec} has {len(text)} (split {split}). "
            f"Ask for 1 to {len(text)}, or pass n_sentences=None."
        )
    return text.first(n_sentences)


Sentences: TypeAlias = ParallelText | Mapping[str, Sequence[str]] | str | Path
"""Parallel sentences as functions take them: loaded, in a dictionary, or where `load_parallel`
finds them."""


def as_parallel(
    sentences: Sentences, *, languages: Sequence[str], optional: Sequence[str] = ()
) -> ParallelText:
    """Return parallel text from what a caller has.

    Args:
        sentences: Parallel text; a dictionary of language -> sentences, whose languages may be
            spelt in any way that `lookup` knows; or a specification for `load_parallel`.
        languages: The languages to load, for a specification.
        optional: Further languages to load if the source has them.

    Raises:
        LanguageError: An unknown language, or one under two spellings.
        CorpusError: One string in place of sentences, or see `load_parallel`.
    """
    if isinstance(sentences, ParallelText):
        return sentences
    if isinstance(sentences, (str, Path)):
        return load_parallel(str(sentences), languages=languages, optional=optional)
    for name, lines in sentences.items():
        if isinstance(lines, str):
            raise CorpusError(f"{name} has one string; give each language a list of sentences.")
    found = {code: tuple(lines) for code, lines in by_code(sentences).items()}
    return ParallelText(tuple(found), found, spec="a dictionary", split=None)


def load_with_reference(
    spec: str,
    language: str,
    against: Sequence[str] = (),
    *,
    split: str | None = None,
    n_sentences: int | None = None,
) -> ParallelText:
    """Load sentences of a language and of those it is compared with; see `load_parallel`.

    Args:
        spec: one of the specifications in the table above.
        language: in any spelling that `lookup` knows.
        against: the languages compared with; by default those of the paper's nine that the
            source has.
        split: as in `load_parallel`.
        n_sentences: as in `load_parallel`.
    """
    return load_parallel(
        spec, split=split, n_sentences=n_sentences, **with_reference(language, against)
    )


def with_reference(language: str, against: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return the `languages` and `optional` of `load_with_reference`."""
    code, others = lookup(language).code, codes_of(against)
    return {
        "languages": tuple(dict.fromkeys((code, *others))),
        "optional": () if others else tuple(one for one in PAPER_REFERENCE if one != code),
    }


def align_by_id(
    tables: Mapping[str, Iterable[tuple[str, Mapping[str, Any]]]], *, what: str
) -> dict[str, tuple[str, ...]]:
    """Align the rows of several languages by the column `id`, in the order of the first language.

    Args:
        tables: Language -> the place of each row and the row, with the columns `id` and `text`.
        what: The data, for errors.

    Raises:
        CorpusError: A column is missing, an id comes twice, or languages differ in their ids.
    """
    texts: dict[str, dict[str, str]] = {}
    for code, rows in tables.items():
        found = texts[code] = {}
        for where, row in rows:
            for column in ("id", "text"):
                require_field(column, row, where=where)
            key = str(row["id"])
            if key in found:
                raise CorpusError(f"{where}: the `id` {key} was used before; each is used once.")
            found[key] = as_text(row["text"], where=where, field="text")
    first, *others = texts
    for code in others:
        odd = sorted(texts[code].keys() ^ texts[first].keys())
        if odd:
            raise CorpusError(
                f"{what} is not parallel: {first} has {len(texts[first])} sentences and {code} "
                f"{len(texts[code])}, and they differ in {len(odd)} sentence ids, e.g. "
                f"{', '.join(odd[:5])}."
            )
    return {code: tuple(table[key] for key in texts[first]) for code, table in texts.items()}


_Read = Callable[[list[Language]], dict[str, tuple[str, ...]]]
_Has = Callable[[Language], bool]


def _reader(spec: str, split: str | None) -> tuple[_Read, _Has, str | None]:
    """Return a reader of a source, a test of whether it has a language, and the split."""
    kind, _, rest = spec.partition(":")
    if spec == "embedded":
        split = split or "devtest"
        return (
            lambda languages: _embedded(languages, split),
            lambda language: language.code in PAPER_LANGUAGES,
            split,
        )
    if kind == "flores":
        split, name = split or "devtest", rest or FLORES
        if rest and Path(rest).expanduser().is_dir():
            return (
                lambda languages: _flores_folder(rest, languages, split),
                lambda language: has_files(rest, language=language, split=split),
                split,
            )
        return (
            lambda languages: _flores(name, languages, split),
            lambda language: _flores_has(name, language, split),
            split,
        )
    if kind == "ntrex":
        if split not in (None, "test"):
            raise CorpusError(f"NTREX has one split, test; got {split!r}. Leave the split out.")
        folder = Path(rest).expanduser()
        return (
            lambda languages: _ntrex(folder, languages),
            lambda language: bool(_ntrex_files(folder, language)),
            "test",
        )
    template, options = parse_options(spec, known=["field"])
    return (
        lambda languages: _folder(template, languages, split, field=options.get("field", "text")),
        lambda language: has_files(template, language=language, split=split),
        split,
    )


def _embedded(languages: list[Language], split: str) -> dict[str, tuple[str, ...]]:
    return {
        language.code: tuple(s.text for s in embedded.sentences(language.code, split))
        for language in languages
    }


def _flores(dataset: str, languages: list[Language], split: str) -> dict[str, tuple[str, ...]]:
    tables = {
        language.code: read_source(*open_rows(_flores_sources(dataset, language, split)))
        for language in languages
    }
    return align_by_id(tables, what=dataset)


def _flores_folder(
    folder: str, languages: list[Language], split: str
) -> dict[str, tuple[str, ...]]:
    tables = {
        language.code: read_rows(*find_files(folder, language=language, split=split))
        for language in languages
    }
    return align_by_id(tables, what=folder)


def _flores_sources(dataset: str, language: Language, split: str) -> list[HubSource]:
    return hub_sources(f"hf:{dataset}?config={{flores}}", language=language, split=split)


def _flores_has(dataset: str, language: Language, split: str) -> bool:
    try:
        open_rows(_flores_sources(dataset, language, split))
    except CorpusError as error:
        # An unreachable hub or a wrong split does not mean that a language is missing.
        if "has no configuration" in str(error):
            return False
        raise
    return True


def _ntrex(folder: Path, languages: list[Language]) -> dict[str, tuple[str, ...]]:
    if not folder.is_dir():
        raise CorpusError(
            f"no NTREX folder at {folder}. Get it from github.com/MicrosoftTranslator/NTREX and "
            f"pass ntrex:<folder that holds newstest2019-ref.*.txt>."
        )
    return {
        language.code: tuple(read_records(_ntrex_file(folder, language))) for language in languages
    }


def _ntrex_file(folder: Path, language: Language) -> Path:
    for path in _ntrex_files(folder, language):
        return path
    raise CorpusError(
        f"NTREX at {folder} has no {language.name}: looked for {' and '.join(_NTREX)} with "
        f"{', '.join(spellings(language))} for {{lang}}. {listing(folder)}"
    )


def _ntrex_files(folder: Path, language: Language) -> list[Path]:
    found = (match_paths(folder, pattern, language=language) for pattern in _NTREX)
    return list(itertools.chain.from_iterable(found))


def _folder(
    template: str, languages: list[Language], split: str | None, *, field: str
) -> dict[str, tuple[str, ...]]:
    sentences = {}
    for language in languages:
        files = find_files(template, language=language, split=split)
        if len(files) > 1:
            raise CorpusError(
                f"expected one file of sentences for {language.name}, found "
                f"{', '.join(map(str, files))}. Name the file, with {{lang}} for the language."
            )
        sentences[language.code] = tuple(read_records(*files, field=field))
    return sentences
