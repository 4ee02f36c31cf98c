"""Collect examples of every neuron in one forward pass over text.

Each document is read once and by itself, after the prefix of the model. A document longer than a
block is read in pieces of as many tokens as a block holds. No activation is kept after its batch;
`example_streams` says what is kept, and how much memory that takes.

Results depend on batches only by the rounding of the model's own activations. To be able to
resume, collect some languages at a time, save each part, and put the parts together with
`NeuronExamples.join`: the result is the same.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lse_interp.analysis.example_streams import NeuronStream
from lse_interp.analysis.neuron_examples import NeuronExamples
from lse_interp.analysis.text_windows import Encoded, encode
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import ActivationError, CorpusError, LseError, require_one_of
from lse_interp.core.languages import by_code
from lse_interp.core.progress import progress
from lse_interp.counting.count_settings import NEURON_SITES, CountSettings
from lse_interp.data.corpora import Corpus
from lse_interp.data.parallel import ParallelText
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sites import parse_site, site_name
from lse_interp.models.tokenization import context_length, pad

__all__ = ["Texts", "collect_examples", "read_tokens"]

Texts: TypeAlias = ParallelText | Corpus | Mapping[str, Sequence[str] | Corpus]
"""Text by language: sentences, documents or corpora."""

_TOKENISED_AT_ONCE = 64


def collect_examples(
    model: HookedModel,
    texts: Texts,
    *,
    site: str = CountSettings.site,
    n_tokens: int = 10_000,
    k: int = 4,
    sample: int = 32,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> NeuronExamples:
    """Find where in text each neuron of a model is strong, middling, weak, and random positions.

    Args:
        model: The model, with a tokenizer that knows offsets.
        texts: Text of one language or more. Documents without a token are kept and hold nothing.
        site: A site with one value per neuron; a neuron is active where it is > 0.
        n_tokens: Stop reading a language after the document that reaches so many tokens.
        k: Examples of each kind, per neuron and language.
        sample: Random active positions from which `middle` and `weak` are taken.
        batch_tokens: Positions per forward pass, or one document if that is longer; changes
            results only by rounding.
        seed: Of the random positions.

    Returns:
        The examples, and the text that was read.

    Raises:
        CorpusError: No text, a language without a token, or text that is no valid Unicode.
        LanguageError: An unknown language, or one under two spellings.
        ActivationError: Another site, or values that are not finite.
        LseError: A number below 1, or no such tokenizer.
    """
    require_one_of("site", site, NEURON_SITES)
    model.layout.locate(site_name(site, 0))
    numbers = {"n_tokens": n_tokens, "k": k, "sample": sample, "batch_tokens": batch_tokens}
    for name, number in numbers.items():
        if number < 1:
            raise LseError(f"`{name}` must be at least 1; got {number}.")
    block = _block(model)
    read = {
        code: _take(model, code, documents, n_tokens=n_tokens)
        for code, documents in _documents(texts).items()
    }
    found = []
    for documents in progress(read.values(), f"examples of {model.name}", unit="language"):
        streams = [
            NeuronStream(layer, k=k, sample=sample, seed=seed) for layer in range(model.n_layers)
        ]
        see = [stream.add for stream in streams]
        ids = [encoded.ids for _, encoded in documents]
        read_tokens(model, ids, see, site=site, block=block, batch_tokens=batch_tokens)
        layers = zip(*(stream.finish() for stream in streams), strict=True)
        found.append([torch.stack(parts, dim=1) for parts in layers])
    values, positions = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
    return NeuronExamples(
        languages=tuple(read),
        model=model.info,
        site=site,
        block=block,
        sample=sample,
        seed=seed,
        documents={code: tuple(text for text, _ in pairs) for code, pairs in read.items()},
        lengths={code: tuple(len(e.ids) for _, e in pairs) for code, pairs in read.items()},
        values=values,
        positions=positions,
        provenance=provenance(
            backend=model.backend, dtype=model.dtype, prefix=model.prefix, device=model.device
        ),
    )


def _block(model: HookedModel) -> int:
    """Return the text tokens that are read at once."""
    most = min(model.defaults.block_size, context_length(model) or model.defaults.block_size)
    if len(model.prefix) >= most:
        raise LseError(f"The prefix of {model.name} fills its block of {most} tokens.")
    return most - len(model.prefix)


def _documents(texts: Texts) -> dict[str, Iterable[str]]:
    if isinstance(texts, ParallelText):
        return dict(texts.sentences)
    if isinstance(texts, Corpus):
        texts = {texts.language: texts}
    if not texts:
        raise CorpusError("There is no text; give at least one language.")
    found: dict[str, Iterable[str]] = {}
    for code, documents in by_code(texts).items():
        if isinstance(documents, str):
            raise CorpusError(f"{code} has one string; give each language a list of documents.")
        found[code] = documents.documents() if isinstance(documents, Corpus) else documents
    return found


def _take(
    model: HookedModel, language: str, documents: Iterable[str], *, n_tokens: int
) -> list[tuple[str, Encoded]]:
    """Tokenise documents until they hold so many tokens."""
    taken: list[tuple[str, Encoded]] = []
    room = n_tokens
    for text, encoded in _encoded(model, documents):
        taken.append((text, encoded))
        room -= len(encoded.ids)
        if room <= 0:
            break
    if room == n_tokens:
        raise CorpusError(
            f"The text of {language} has no token. Give it a document that is not empty, or leave "
            "the language out."
        )
    return taken


def _encoded(model: HookedModel, documents: Iterable[str]) -> Iterator[tuple[str, Encoded]]:
    rest = iter(documents)
    while texts := list(itertools.islice(rest, _TOKENISED_AT_ONCE)):
        yield from zip(texts, encode(model, texts), strict=True)


def read_tokens(
    model: HookedModel,
    documents: Sequence[list[int]],
    see: Sequence[Callable[[Tensor, Tensor], None]],
    *,
    site: str,
    block: int,
    batch_tokens: int,
) -> None:
    """Run the model over documents, and show each layer's values to a function.

    Args:
        model: The model.
        documents: Their tokens; each document is read by itself.
        see: Per layer, `fn(values [pos neuron], positions [pos])`. A block comes whole, with
            others; a position is a token of all documents in a row.
        site: Kind of site.
        block: Tokens that are read at once.
        batch_tokens: Positions per forward pass.

    Raises:
        ActivationError: From `see`, with the site as a note.
    """
    parts: list[tuple[int, list[int]]] = []
    position = 0
    for ids in documents:
        for start in range(0, len(ids), block):
            parts.append((position + start, ids[start : start + block]))
        position += len(ids)
    # Of similar length, so that little is padded.
    parts.sort(key=lambda part: len(part[1]), reverse=True)
    left = model.tokenizer.padding_side == "left"
    while parts:
        n_members = max(1, batch_tokens // (len(model.prefix) + len(parts[0][1])))
        members, parts = parts[:n_members], parts[n_members:]
        batch, is_text = pad([ids for _, ids in members], prefix=model.prefix, left=left)
        kept = is_text.flatten().nonzero().flatten()
        positions = torch.cat([torch.arange(len(ids)) + start for start, ids in members])

        def visit(
            values: Float[Tensor, "batch pos neuron"],
            name: str,
            kept: Tensor = kept,
            positions: Tensor = positions,
        ) -> None:
            rows = values.flatten(0, 1)[kept.to(values.device)]
            try:
                see[parse_site(name)[1]](rows, positions)
            except ActivationError as error:
                error.add_note(f"At {name} of {model.name}.")
                raise

        model.run_with_hooks(batch, {site: visit}, stop_after=model.n_layers - 1)
