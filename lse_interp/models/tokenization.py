"""Text as token ids: BOS, padding, and whether it fits the model."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.models.hooked import HookedModel

__all__ = ["bos_ids", "check_block_size", "check_lengths", "default_bos", "pad", "token_ids"]


def pad(
    ids: Sequence[list[int]], *, bos: list[int], left: bool
) -> tuple[dict[str, Int64[Tensor, "batch pos"]], Bool[Tensor, "batch pos"]]:
    """Return a batch, and which of its positions hold text."""
    longest = len(bos) + max(map(len, ids))
    tokens = torch.zeros(len(ids), longest, dtype=torch.int64)
    attended = torch.zeros_like(tokens)
    is_text = torch.zeros_like(tokens, dtype=torch.bool)
    for row, sentence in enumerate(ids):
        whole = [*bos, *sentence]
        start = longest - len(whole) if left else 0
        end = start + len(whole)
        tokens[row, start:end] = torch.tensor(whole)
        attended[row, start:end] = 1
        is_text[row, start + len(bos) : end] = True
    return {"input_ids": tokens, "attention_mask": attended}, is_text


def token_ids(model: HookedModel, sentences: Sequence[str]) -> list[list[int]]:
    """Tokenise sentences without special tokens.

    Raises:
        LseError: the model has no tokenizer.
        CorpusError: no sentences.
    """
    if model.tokenizer is None:
        raise LseError(f"{model.name} has no tokenizer. Give HookedModel one with the model.")
    if not sentences:
        raise CorpusError("There is no sentence to embed; give at least one.")
    return model.tokenizer(list(sentences), add_special_tokens=False)["input_ids"]


def bos_ids(tokenizer: Any) -> list[int]:
    """Return the BOS a tokenizer puts before text by itself, or nothing."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def check_block_size(model: HookedModel, block_size: int) -> None:
    """Refuse blocks longer than the model has positions for.

    Raises:
        LseError: A longer block.
    """
    most = getattr(model.hf.config, "max_position_embeddings", None)
    if most is not None and block_size > most:
        raise LseError(
            f"`block_size` must be at most the {most} positions that {model.name} was made for; "
            f"got {block_size}."
        )


def check_lengths(model: HookedModel, ids: Sequence[list[int]], *, n_bos: int) -> None:
    """Refuse a sentence without tokens, or longer than the model can read.

    Raises:
        CorpusError: names the sentence.
    """
    shortest = min(range(len(ids)), key=lambda i: len(ids[i]))
    if not ids[shortest]:
        raise CorpusError(f"Sentence {shortest + 1} has no token. Remove it, or fill it.")
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    n_tokens = n_bos + len(ids[longest])
    context = getattr(model.hf.config, "max_position_embeddings", None)
    if context is not None and n_tokens > context:
        raise CorpusError(
            f"Sentence {longest + 1} has {n_tokens} tokens, more than the {context} positions of "
            f"{model.name}. Leave it out, or use a model with a longer context."
        )


def default_bos(tokenizer: Any) -> Literal["block", "none"]:
    """Return `block` if the tokenizer itself puts BOS before a text, else `none`."""
    ids = tokenizer("a")["input_ids"]
    return (
        "block"
        if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
        else "none"
    )
