"""Token blocks: documents joined by token id and cut to one length, without padding.

The token ids of all documents, with the chosen separators, form one stream, which is cut into
blocks. Text is never decoded and encoded again. Every position says whether it is text, so that BOS
and separators can be left out of any statistic. The same documents and options give the same
blocks, so a run can be resumed, or split over processes.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.core.errors import CorpusError
from lse_interp.data.separators import Bos, Separator

__all__ = ["Block", "IGNORE", "batches", "pack", "require_documents"]


IGNORE = -100
"""Label of a position that takes no part in the loss."""

_DOCUMENTS_PER_CALL = 128


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive tokens of a corpus."""

    ids: Int64[Tensor, " pos"]
    """Token ids."""
    is_text: Bool[Tensor, " pos"]
    """False at BOS and at separators."""
    start: int
    """Text tokens of the corpus before this block."""

    def __post_init__(self) -> None:
        if self.ids.shape != self.is_text.shape or self.ids.numel() == 0 or self.start < 0:
            raise CorpusError(
                f"a block needs as many ids as is_text, at least one, and start >= 0; got "
                f"{tuple(self.ids.shape)}, {tuple(self.is_text.shape)}, {self.start}."
            )

    @property
    def n_text(self) -> int:
        """Number of text positions."""
        return int(self.is_text.sum())


def pack(
    documents: Iterable[str],
    tokenizer: Any,
    *,
    block_size: int,
    n_tokens: int | None = None,
    bos: Bos = "block",
    separator: Separator = "eos",
) -> Iterator[Block]:
    """Cut documents into blocks of `block_size` positions that hold `n_tokens` of text in all.

    Text is tokenised without special tokens and without truncation. The last block holds the rest.

    Args:
        documents: texts; one without a token adds nothing, not even a separator.
        tokenizer: a transformers tokenizer.
        block_size: positions per block, BOS included.
        n_tokens: text positions in all blocks together; None takes every document.
        bos: BOS at the start of every block, of every document, or nowhere.
        separator: EOS between two documents, or nothing.

    Raises:
        CorpusError: arguments out of range, one text instead of several, a special token the
            tokenizer lacks, no text, or fewer text tokens than `n_tokens` (raised after the last
            whole block).
    """
    require_documents(documents)
    _check(block_size=block_size, n_tokens=n_tokens, bos=bos, separator=separator)
    bos_id = None if bos == "none" else _special(tokenizer, "bos")
    eos_id = None if separator == "none" else _special(tokenizer, "eos")
    pieces = _pieces(
        documents,
        tokenizer,
        before_document=bos_id if bos == "document" else None,
        between=eos_id,
    )
    return _cut(
        _limit(pieces, n_tokens),
        block_size=block_size,
        before_block=bos_id if bos == "block" else None,
    )


def require_documents(documents: object, *, what: str = "documents") -> None:
    """Refuse one text if several are expected: each letter would count as a document.

    Raises:
        CorpusError: a str.
    """
    if isinstance(documents, str):
        raise CorpusError(
            f"`{what}` must be a list of texts; got one text of {len(documents):,} characters. "
            "Put it into a list: [text]."
        )


def batches(
    blocks: Iterable[Block], batch_size: int
) -> Iterator[tuple[Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]]:
    """Stack up to `batch_size` consecutive blocks of one length; a shorter block is a batch.

    Returns:
        Pairs of token ids and is_text, both `[batch pos]`, in the order of the blocks.
    """
    if batch_size < 1:
        raise CorpusError(f"`batch_size` must be at least 1; got {batch_size}.")
    for _, same_length in itertools.groupby(blocks, key=lambda block: len(block.ids)):
        while group := list(itertools.islice(same_length, batch_size)):
            yield (
                torch.stack([block.ids for block in group]),
                torch.stack([block.is_text for block in group]),
            )


_Piece = tuple[Int64[Tensor, " pos"], Bool[Tensor, " pos"]]


def _pieces(
    documents: Iterable[str],
    tokenizer: Any,
    *,
    before_document: int | None,
    between: int | None,
) -> Iterator[_Piece]:
    """Yield the stream of ids and is_text, a few documents at a time."""
    opening = [] if before_document is None else [before_document]
    joint = [] if between is None else [between]
    first = True
    for texts in _chunks(documents, _DOCUMENTS_PER_CALL):
        ids: list[int] = []
        inserted: list[int] = []
        for document in _token_ids(tokenizer, texts):
            if not document:
                continue
            prefix = opening if first else joint + opening
            first = False
            inserted += range(len(ids), len(ids) + len(prefix))
            ids += prefix + document
        if ids:
            is_text = torch.ones(len(ids), dtype=torch.bool)
            is_text[inserted] = False
            yield torch.tensor(ids, dtype=torch.int64), is_text


def _limit(pieces: Iterator[_Piece], n_tokens: int | None) -> Iterator[_Piece]:
    """End the stream with its `n_tokens`-th text position."""
    found = 0
    for ids, is_text in pieces:
        n_text = int(is_text.sum())
        if n_tokens is not None and found + n_text >= n_tokens:
            end = int(is_text.nonzero()[n_tokens - found - 1]) + 1
            yield ids[:end], is_text[:end]
            return
        found += n_text
        yield ids, is_text
    if n_tokens is not None:
        raise CorpusError(
            f"{n_tokens:,} text tokens were asked for, but the corpus has {found:,}. "
            f"Ask for at most that many, or for all of it."
        )
    if not found:
        raise CorpusError("the corpus has no text: no document gave a token.")


def _cut(pieces: Iterator[_Piece], *, block_size: int, before_block: int | None) -> Iterator[Block]:
    head = torch.tensor([] if before_block is None else [before_block], dtype=torch.int64)
    not_text = torch.zeros(len(head), dtype=torch.bool)
    room = block_size - len(head)
    start = 0

    def block(ids: Tensor, is_text: Tensor) -> Block:
        return Block(torch.cat([head, ids]), torch.cat([not_text, is_text]), start)

    rest_ids, rest_text = head[:0], not_text[:0]
    for ids, is_text in pieces:
        ids, is_text = torch.cat([rest_ids, ids]), torch.cat([rest_text, is_text])
        whole = len(ids) // room * room
        for begin in range(0, whole, room):
            made = block(ids[begin : begin + room], is_text[begin : begin + room])
            yield made
            start += made.n_text
        rest_ids, rest_text = ids[whole:], is_text[whole:]
    if len(rest_ids):
        yield block(rest_ids, rest_text)


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded["input_ids"]


def _chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    stream = iter(items)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def _special(tokenizer: Any, name: Literal["bos", "eos"]) -> int:
    token_id = getattr(tokenizer, f"{name}_token_id")
    if token_id is None:
        option = "bos" if name == "bos" else "separator"
        raise CorpusError(f"the tokenizer has no {name.upper()} token. Pass {option}='none'.")
    return token_id


def _check(*, block_size: int, n_tokens: int | None, bos: str, separator: str) -> None:
    for name, value, choices in (
        ("bos", bos, ("block", "document", "none")),
        ("separator", separator, ("eos", "none")),
    ):
        if value not in choices:
            raise CorpusError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")
    smallest = 2 if bos == "block" else 1
    if block_size < smallest:
        raise CorpusError(
            f"`block_size` must be at least {smallest} with bos={bos!r}; got {block_size}."
        )
    if n_tokens is not None and n_tokens < 1:
        raise CorpusError(f"`n_tokens` must be at least 1, or None for all text; got {n_tokens}.")
