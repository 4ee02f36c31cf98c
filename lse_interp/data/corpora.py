"""Monolingual text by specification: embedded, local files, GlotCC, any Hugging Face data set.

| specification                               | text                                           |
|---------------------------------------------|------------------------------------------------|
| `embedded`                                  | the corpus in this package, split `pretrain`   |
| `glotcc`                                    | GlotCC on the Hugging Face hub                 |
| `hf:<data set>?config=...&split=...&field=` | any data set, on the hub or in a local folder  |
| a path, `?field=...` after it if need be    | a file that `readers` reads, or a folder of    |
|                                             | them; `{lang}` is replaced by the code         |
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language, lookup
from lse_interp.data import embedded
from lse_interp.data.hub import GLOTCC, hub_sources, open_rows, read_column
from lse_interp.data.local_files import find_files
from lse_interp.data.readers import read_documents, read_records
from lse_interp.data.source_spec import names_language, parse_options

__all__ = ["Corpus", "CorpusDefaults", "corpus_defaults", "load_corpus", "require_text_of_each"]

_SPECS = ("embedded", "glotcc")


@dataclass(frozen=True)
class CorpusDefaults:
    """How a corpus is used unless told otherwise."""

    n_tokens: int | None = None
    """Text tokens to count; None leaves it to the model."""
    training_split: str | None = None
    """The split to fine-tune on; None takes that of `load_corpus`."""
    validation: str = "flores"
    """The parallel text to validate a fine-tuning on."""


_DEFAULTS = {"embedded": CorpusDefaults(20_000, training_split="adapt", validation="embedded")}


@dataclass(frozen=True)
class Corpus:
    """Text of one language that can be read from the start again and again.

    `documents()` streams: memory holds one document (one batch of rows for parquet), and the
    order is the same on every reading.
    """

    language: str
    """ISO 639-3."""
    spec: str
    """The specification as it was given."""
    split: str | None
    """The split read; None if the source has none."""
    source: str
    """Where the text was found: the files, or the data set with its configuration and field."""
    read: Callable[[], Iterator[str]] = field(repr=False, compare=False)
    """Opens the text at its start."""

    def documents(self) -> Iterator[str]:
        """Stream the documents from the first to the last.

        Raises:
            CorpusError: the text turns out empty, broken, not UTF-8 or without the field.
        """
        return self.read()


def load_corpus(spec: str, *, language: str, split: str | None = None) -> Corpus:
    """Find a corpus of one language, and check all that can be checked without reading it.

    Args:
        spec: one of the specifications in the table above.
        language: any spelling that `lookup` knows.
        split: of `embedded`: pretrain (default), adapt, dev, devtest; of a data set: default
            train; of local files: what `{split}` in the path becomes.

    Raises:
        LanguageError: unknown language, or one the embedded corpus lacks.
        CorpusError: no such file, data set, configuration or split; an empty file; no network; a
            first row that cannot be read or lacks the field.
    """
    record = lookup(language)
    if spec == "embedded":
        return _embedded(spec, record, split or "pretrain")
    if spec == "glotcc" or spec.startswith("hf:"):
        return _hub(spec, record, split)
    return _local(spec, record, split)


def corpus_defaults(spec: str) -> CorpusDefaults:
    """Return how a corpus is used unless told otherwise."""
    return _DEFAULTS.get(spec, CorpusDefaults())


def require_text_of_each(spec: str, languages: Sequence[str]) -> None:
    """Refuse a specification that would give several languages the same text.

    Raises:
        CorpusError: one file or data set for more than one language.
    """
    if len(languages) < 2 or spec in _SPECS or names_language(spec):
        return
    if spec.startswith("hf:") or Path(parse_options(spec, known=["field"])[0]).is_file():
        raise CorpusError(
            f"{spec} is one text, and it was asked for as {', '.join(languages)}. Write {{lang}} "
            "where the path or configuration says the language (see the README for other "
            "spellings), or give a folder with one file per language, or one language."
        )


def _embedded(spec: str, language: Language, split: str) -> Corpus:
    n_sentences = len(embedded.sentences(language.code, split))
    return Corpus(
        language=language.code,
        spec=spec,
        split=split,
        source=f"embedded corpus, {n_sentences} sentences",
        read=lambda: iter(embedded.documents(language.code, split)),
    )


def _hub(spec: str, language: Language, split: str | None) -> Corpus:
    sources = hub_sources(
        GLOTCC if spec == "glotcc" else spec,
        language=language,
        split=split,
    )
    rows, source = open_rows(sources)
    return Corpus(
        language=language.code,
        spec=spec,
        split=source.split,
        source=str(source),
        read=lambda: read_column(rows, source),
    )


def _local(spec: str, language: Language, split: str | None) -> Corpus:
    path, options = parse_options(spec, known=["field"])
    try:
        files = find_files(path, language=language, split=split)
    except CorpusError as error:
        if not Path(path).exists() and near_misses(path, _SPECS).startswith("Did you mean"):
            error.add_note(f"{near_misses(path, _SPECS)} (Known besides paths: embedded, glotcc.)")
        raise
    name = options.get("field", "text")
    next(read_records(files[0], field=name), None)
    return Corpus(
        language=language.code,
        spec=spec,
        split=split,
        source=", ".join(map(str, files)),
        read=lambda: read_documents(*files, field=name),
    )
