"""Text as token ids: what a model expects before it, padding, and whether it fits."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.core.errors import CorpusError, LseError

__all__ = ["TextModel", "auto_bos", "check_block_size", "find_prefix", "pad", "token_ids"]


@runtime_checkable
class TextModel(Protocol):
    """What reads text, as a `HookedModel` does."""

    @property
    def hf(self) -> Any:
        """The transformers model."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, or None."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """The token ids that it expects before text."""


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


def token_ids(model: TextModel, sentences: Sequence[str]) -> list[list[int]]:
    """Tokenise sentences without special tokens.

    Raises:
        LseError: The model has no tokenizer.
        CorpusError: No sentence, one without a token, or one longer than the model can read.
    """
    tokenizer = _tokenizer(model)
    if not sentences:
        raise CorpusError("There is no sentence; give at least one.")
    ids = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    context = getattr(model.hf.config, "max_position_embeddings", None)
    for number, sentence in enumerate(ids, start=1):
        if not sentence:
            raise CorpusError(f"Sentence {number} has no token. Remove it, or fill it.")
        n_tokens = len(model.prefix) + len(sentence)
        if context is not None and n_tokens > context:
            raise CorpusError(
                f"Sentence {number} has {n_tokens} tokens, more than the {context} positions of "
                f"{model.name}. Leave it out, or use a model with a longer context."
            )
    return ids


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


def check_block_size(model: TextModel, block_size: int) -> None:
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


def auto_bos(model: TextModel) -> Literal["block", "none"]:
    """Return where packed text has BOS by `auto`: before every block if the model expects BOS.

    Raises:
        LseError: The model has no tokenizer.
    """
    return "block" if _tokenizer(model).bos_token_id in model.prefix else "none"


def _tokenizer(model: TextModel) -> Any:
    if model.tokenizer is None:
        raise LseError(f"{model.name} has no tokenizer. Give HookedModel one with the model.")
    return model.tokenizer


def _start(ids: list[int], text: list[int]) -> int:
    """Return where a text last begins among ids that hold it; 0 if they do not."""
    starts = range(len(ids) - len(text) + 1)
    return next((i for i in reversed(starts) if ids[i : i + len(text)] == text), 0)
