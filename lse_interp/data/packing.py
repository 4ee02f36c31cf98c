"""Token blocks: documents joined by token id and cut to one length, without padding.

The token ids of all documents, with the chosen separators, form one stream, which is cut into
blocks. Text is never decoded and encoded again. Every position says whether it is text, so that the
prefix and separators can be left out of any statistic. The same documents and options give the same
blocks, so a run can be resumed, or split over processes.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.core.errors import CorpusError
from lse_interp.data.separators import BosAt, Separator

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
    """False at the prefix and at separators."""
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
    prefix: Sequence[int] = (),
    bos_at: BosAt = "block",
    separator: Separator = "eos",
) -> Iterator[Block]:
    """Cut documents into blocks of `block_size` positions that hold `n_tokens` of text in all.

    Text is tokenised without special tokens and without truncation. The last block holds the rest.

    Args:
        documents: texts; one without a token adds nothing, not even a separator.
        tokenizer: a transformers tokenizer.
        block_size: positions per block, the prefix included.
        n_tokens: text positions in all blocks together; None takes every document.
        prefix: token ids that the model expects before text (`model.prefix`).
        bos_at: the prefix at the start of every block, or of every document.
        separator: EOS between two documents, or nothing.

    Raises:
        CorpusError: arguments out of range, one text instead of several, a special token the
            tokenizer lacks, no text, or fewer text tokens than `n_tokens` (raised after the last
            whole block).
    """
    require_documents(documents)
    before_block = list(prefix) if bos_at == "block" else []
    _check(
        smallest=len(before_block) + 1,
        block_size=block_size,
        n_tokens=n_tokens,
        bos_at=bos_at,
        separator=separator,
    )
    pieces = _pieces(
        documents,
        tokenizer,
        before_document=list(prefix) if bos_at == "document" else [],
        between=[] if separator == "none" else [_eos(tokenizer)],
    )
    return _cut(_limit(pieces, n_tokens), block_size=block_size, before_block=before_block)


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
    before_document: list[int],
    between: list[int],
) -> Iterator[_Piece]:
    """Yield the stream of ids and is_text, a few documents at a time."""
    first = True
    for texts in _chunks(documents, _DOCUMENTS_PER_CALL):
        ids: list[int] = []
        inserted: list[int] = []
        for document in _token_ids(tokenizer, texts):
            if not document:
                continue
            before = before_document if first else between + before_document
            first = False
            inserted += range(len(ids), len(ids) + len(before))
            ids += before + document
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


def _cut(pieces: Iterator[_Piece], *, block_size: int, before_block: list[int]) -> Iterator[Block]:
    head = torch.tensor(before_block, dtype=torch.int64)
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


def _eos(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise CorpusError("the tokenizer has no EOS token. Pass separator='none'.")
    return tokenizer.eos_token_id


def _check(
    *, smallest: int, block_size: int, n_tokens: int | None, bos_at: str, separator: str
) -> None:
    for name, value, choices in (
        ("bos_at", bos_at, ("block", "document")),
        ("separator", separator, ("eos", "none")),
    ):
        if value not in choices:
            raise CorpusError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")
    if block_size < smallest:
        raise CorpusError(
            f"`block_size` must be at least {smallest}, with {smallest - 1} tokens of prefix in "
            f"every block; got {block_size}."
        )
    if n_tokens is not None and n_tokens < 1:
        raise CorpusError(f"`n_tokens` must be at least 1, or None for all text; got {n_tokens}.")
