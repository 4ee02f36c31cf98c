"""The text that a training reads: how a command names it, and what a function takes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lse_interp.core.cli import CorpusArgs
from lse_interp.core.errors import CorpusError, LseError
from lse_interp.data.corpora import Corpus, corpus_defaults, load_corpus
from lse_interp.data.packing import require_documents
from lse_interp.data.parallel import VALIDATION_SPLITS, load_parallel
from lse_interp.neurons.sets import NeuronSets

__all__ = ["reader", "require_kinds", "training_corpus", "validation_texts"]


def training_corpus(text: CorpusArgs, language: str) -> Corpus:
    """Open the corpus to train on, by default at its own split for training."""
    split = text.split or corpus_defaults(text.corpus).training_split
    return load_corpus(text.corpus, language=language, split=split)


def validation_texts(
    spec: str | None, *, corpus: str, languages: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Read the validation text of some languages.

    Args:
        spec: `embedded`, `flores`, `ntrex:<folder>`, or anything `load_corpus` takes; None takes
            the default of the training corpus.
        corpus: The training corpus.
        languages: ISO 639-3.

    Raises:
        CorpusError: Text is missing.
    """
    spec = spec or corpus_defaults(corpus).validation
    kind, codes = spec.partition(":")[0], tuple(languages)
    try:
        if kind in VALIDATION_SPLITS:
            split = VALIDATION_SPLITS[kind]
            return dict(load_parallel(spec, languages=codes, split=split).sentences)
        return {code: tuple(load_corpus(spec, language=code).documents()) for code in codes}
    except CorpusError as error:
        error.add_note("This is the validation text, which --validation names.")
        raise


def require_kinds(corpus: Any, validation: Any, neurons: Any) -> None:
    """Refuse arguments of other kinds, which would fail later in words that do not help.

    Raises:
        CorpusError: One text instead of several.
        LseError: Validation text that is no mapping, or neurons that are no `NeuronSets`.
    """
    if not isinstance(validation, Mapping):
        raise LseError(
            '`validation` must map languages to their documents, {"mlt": [text, ...]}; got '
            f"{type(validation).__name__}."
        )
    for name, texts in {"corpus": corpus, **validation}.items():
        require_documents(texts, what=name)
    if neurons is not None and not isinstance(neurons, NeuronSets):
        raise LseError(
            "`neurons` must be NeuronSets, of which the language's are taken; got "
            f"{type(neurons).__name__}. Pass the sets themselves, not those of one language."
        )


def reader(corpus: Corpus | Iterable[str]) -> Callable[[], Iterable[str]]:
    """Return a function that opens the text; the text is read twice."""
    if isinstance(corpus, Corpus):
        return corpus.documents
    documents = list(corpus)
    return lambda: documents
