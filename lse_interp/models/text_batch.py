"""Text as a batch of token ids: what a model expects before it, and padding."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

__all__ = ["find_prefix", "pad"]


def find_prefix(tokenizer: Any, config: Any) -> tuple[int, ...]:
    """Find the token ids that a model expects before text: one, several or none.

    They are what the tokenizer itself puts there. Where its settings ask for BOS
    (`add_bos_token`) and it puts none, they are the BOS of the model's configuration.

    Args:
        tokenizer: A transformers tokenizer.
        config: The configuration of the model.
    """
    ids = tokenizer("a")["input_ids"]
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = ids[: _start(ids, text)] if text else ids[: ids[:1] == [tokenizer.bos_token_id]]
    if before:
        return tuple(before)
    if not tokenizer.init_kwargs.get("add_bos_token"):
        return ()
    bos = getattr(config.get_text_config(), "bos_token_id", None)
    return () if bos is None else (bos,)


def pad(
    ids: Sequence[list[int]], *, prefix: Sequence[int], left: bool
) -> tuple[dict[str, Int64[Tensor, "batch pos"]], Bool[Tensor, "batch pos"]]:
    """Return a batch, with the prefix before each text, and which of its positions hold text."""
    longest = len(prefix) + max(map(len, ids))
    tokens = torch.zeros(len(ids), longest, dtype=torch.int64)
    attended = torch.zeros_like(tokens)
    is_text = torch.zeros_like(tokens, dtype=torch.bool)
    for row, sentence in enumerate(ids):
        whole = [*prefix, *sentence]
        start = longest - len(whole) if left else 0
        end = start + len(whole)
        tokens[row, start:end] = torch.tensor(whole)
        attended[row, start:end] = 1
        is_text[row, start + len(prefix) : end] = True
    return {"input_ids": tokens, "attention_mask": attended}, is_text


def _start(ids: list[int], text: list[int]) -> int:
    """Return where a text last begins among ids that hold it; 0 if they do not."""
    starts = range(len(ids) - len(text) + 1)
    return next((i for i in reversed(starts) if ids[i : i + len(text)] == text), 0)
