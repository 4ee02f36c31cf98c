"""Pieces of text with a value per token, for any script.

A piece is one token or several: tokens that share a character (bytes of it, as in byte-level BPE
and byte fallback), and tokens that start with a mark that belongs to the letter before (vowel signs
of Devanagari, accents, joiners). So each piece can be shown by itself, and all pieces of a text
make up that text.
"""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.tokenization import TextModel, pad

__all__ = ["Encoded", "Piece", "Span", "Window", "encode", "read_window", "spans"]

_JOINER = "\u200d"


class Encoded(NamedTuple):
    """A text as tokens."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """First and last character (exclusive) of each token."""


class Span(NamedTuple):
    """Some characters of a text, and the tokens that they come from."""

    text: str
    first: int
    last: int
    """Exclusive."""


class Piece(NamedTuple):
    """A piece of text, and the values of its tokens."""

    text: str
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """The largest of the values, by which the piece is shaded."""
        return max(self.values)


@dataclasses.dataclass(frozen=True)
class Window:
    """The text around one token of a document."""

    document: int
    """Which document of the language, from 0."""
    token: int
    """Which token of the document, from 0."""
    value: float
    """The value of the neuron there."""
    pieces: tuple[Piece, ...]
    at: int
    """Which piece holds the token."""
    whole: tuple[bool, bool]
    """Whether the window starts where the document starts, and ends where it ends."""

    @property
    def text(self) -> str:
        """The text of the window."""
        return "".join(piece.text for piece in self.pieces)


def encode(model: TextModel, texts: Sequence[str]) -> list[Encoded]:
    """Tokenise texts without special tokens; a text may have no token.

    Raises:
        LseError: The model has no tokenizer, or one that does not say where tokens are.
        CorpusError: A text that is no valid Unicode.
    """
    tokenizer: Any = model.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise LseError(
            f"{model.name} needs a tokenizer with offsets to show text. Give HookedModel a fast "
            "tokenizer (one with a tokenizer.json)."
        )
    for number, text in enumerate(texts, start=1):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise CorpusError(
                f"Text {number} holds half of a UTF-16 pair, which is no character: {text[:40]!r}. "
                "Read the file as UTF-8."
            )
    if not texts:
        return []
    found = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [Encoded(ids, offsets) for ids, offsets in pairs]


def spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Cut a text into pieces that can be shown; together they are the text.

    Characters that belong to no token, such as spaces that a tokenizer drops, go with the token
    after them; at the end, with the last.

    >>> spans("a b", [(0, 1), (2, 3)])
    [Span(text='a', first=0, last=1), Span(text=' b', first=1, last=2)]
    """
    firsts: list[int] = []
    ends: list[int] = []
    end = 0
    for token, (start, stop) in enumerate(offsets):
        # A token that adds no character, or shares one, belongs to the piece before it.
        joined = bool(ends) and (start < end or stop <= end or not end or _is_mark(text[end]))
        if not joined:
            firsts.append(token)
            ends.append(0)
        end = ends[-1] = max(end, stop)
    if ends:
        ends[-1] = len(text)
    starts = [0, *ends][: len(ends)]
    lasts = [*firsts, len(offsets)][1:]
    return [
        Span(text[start:stop], first, last)
        for start, stop, first, last in zip(starts, ends, firsts, lasts, strict=True)
    ]


def read_window(
    model: HookedModel,
    text: str,
    encoded: Encoded,
    *,
    site: str,
    neuron: int,
    token: int,
    block: int,
    before: int,
    after: int,
) -> tuple[tuple[Piece, ...], int, tuple[bool, bool]]:
    """Read the text around a token, from the start of its block; see the fields of `Window`.

    Args:
        model: The model.
        text: The document.
        encoded: Its tokens.
        site: Full name of a site.
        neuron: Whose values.
        token: Which token of the document.
        block: Tokens that are read at once.
        before: Tokens to show before it.
        after: Tokens to show after it.

    Returns:
        `pieces`, `at`, `whole`.
    """
    ids, offsets = encoded
    start = token // block * block
    end = min(len(ids), start + block)
    first, last = max(start, token - before), min(end, token + after + 1)
    # Whole pieces, so that no character is cut.
    shown = [span for span in spans(text, offsets) if span.last > first and span.first < last]
    batch, is_text = pad([ids[start : min(end, shown[-1].last)]], prefix=model.prefix, left=False)
    read = model.collect(batch, site, reduce=lambda values, _: values[..., neuron].float().cpu())
    values = read[site][is_text].tolist()
    pieces = (
        Piece(span.text, tuple(values[max(span.first, start) - start : span.last - start]))
        for span in shown
    )
    at = next(i for i, span in enumerate(shown) if span.first <= token < span.last)
    return tuple(pieces), at, (shown[0].first == 0, shown[-1].last == len(ids))


def _is_mark(character: str) -> bool:
    return character == _JOINER or unicodedata.category(character).startswith("M")
