"""Text as token ids: what a model expects before it, padding, and whether it fits."""

import functools
import logging
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.core.errors import CorpusError, LseError

__all__ = [
    "TextModel",
    "check_block_size",
    "check_prefix",
    "context_length",
    "find_prefix",
    "pad",
    "parse_bos",
    "require_tokenizer",
    "token_ids",
]

_log = logging.getLogger(__name__)


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


def find_prefix(
    tokenizer: Any, config: Any, *, bos: str | Sequence[int] = "auto", name: str = "The model"
) -> tuple[int, ...]:
    """Find the token ids that a model expects before text: one, several or none.

    `auto` takes what the tokenizer itself puts before text. Where it puts nothing and its settings
    (`add_bos_token`) do not say whether to, it takes the BOS that tokenizer and configuration both
    name, unless it is also EOS: such a model was trained with it, and may be lost without it
    (Gemma's loss doubles). The log says so. A token that is both BOS and EOS separates documents.

    Args:
        tokenizer: A transformers tokenizer; None for none, which gives no prefix.
        config: The configuration of the model.
        bos: `auto`, `none`, `config` (the BOS that the configuration names), or token ids, as
            numbers or in one string: `"64790,64792"`.
        name: Of the model, for messages.

    Raises:
        LseError: `bos` is none of these, or the configuration names no BOS.
    """
    bos = parse_bos(bos)
    if tokenizer is None or bos == "none":
        return ()
    if not isinstance(bos, str):
        return bos
    text_config = config.get_text_config()
    named = getattr(text_config, "bos_token_id", None)
    if bos == "config":
        if named is None:
            raise LseError(f"The configuration of {name} names no BOS. Give token ids, or none.")
        return (named,)
    if before := _put_before(tokenizer):
        return before
    asked, own = tokenizer.init_kwargs.get("add_bos_token"), tokenizer.bos_token_id
    if asked and own is not None:
        return (own,)
    ends = text_config.eos_token_id
    if asked is False or named is None or named in (ends if isinstance(ends, list) else [ends]):
        return ()
    if asked:
        return (named,)
    _warn_once(
        f"{name}: the configuration names a BOS, {named}, which the tokenizer does not put before "
        + (
            "text. It is put there, as such a model may be lost without; --bos none leaves it out."
            if named == own
            else f"text, and does not call BOS (its own is {own}). Nothing is put there; --bos "
            "config puts it."
        )
    )
    return (named,) if named == own else ()


def check_prefix(prefix: Sequence[int], *, n_ids: int, name: str) -> None:
    """Refuse a prefix that a model of `n_ids` token ids has no embedding for.

    Raises:
        LseError: A larger id.
    """
    if beyond := [i for i in prefix if i >= n_ids]:
        raise LseError(f"{name} has {n_ids} token ids, 0 to {n_ids - 1}; got bos={beyond[0]}.")


def parse_bos(bos: str | Sequence[int]) -> str | tuple[int, ...]:
    """Read what `--bos` says: `auto`, `none`, `config`, or token ids.

    >>> parse_bos("64790,64792")
    (64790, 64792)

    Raises:
        LseError: Anything else.
    """
    if bos in ("auto", "none", "config"):
        return str(bos)
    try:
        ids = tuple(int(i) for i in (bos.split(",") if isinstance(bos, str) else bos))
    except (TypeError, ValueError):
        ids = ()
    if not ids or min(ids) < 0:
        raise LseError(
            f"`bos` must be auto, none, config, or token ids such as 1 or 64790,64792; got {bos!r}."
        )
    return ids


def token_ids(model: TextModel, sentences: Sequence[str]) -> list[list[int]]:
    """Tokenise sentences without special tokens.

    Raises:
        LseError: The model has no tokenizer.
        CorpusError: No sentence, one without a token, or one longer than the model can read.
    """
    tokenizer = require_tokenizer(model)
    if not sentences:
        raise CorpusError("There is no sentence; give at least one.")
    ids = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    context = context_length(model)
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
    most = context_length(model)
    if most is not None and block_size > most:
        raise LseError(
            f"`block_size` must be at most the {most} positions that {model.name} was made for; "
            f"got {block_size}."
        )


def context_length(model: TextModel) -> int | None:
    """Return the positions that a model was made for; None where its configuration names none."""
    return getattr(model.hf.config, "max_position_embeddings", None)


def require_tokenizer(model: TextModel) -> Any:
    """Return the tokenizer of a model.

    Raises:
        LseError: It has none.
    """
    if model.tokenizer is None:
        raise LseError(f"{model.name} has no tokenizer. Give HookedModel one with the model.")
    return model.tokenizer


def _put_before(tokenizer: Any) -> tuple[int, ...]:
    if not tokenizer.num_special_tokens_to_add():
        return ()
    ids = tokenizer("a")["input_ids"]
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tuple(ids[: _start(ids, text)] if text else ids[: ids[:1] == [tokenizer.bos_token_id]])


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def _start(ids: list[int], text: list[int]) -> int:
    """Return where a text last begins among ids that hold it; 0 if they do not."""
    starts = range(len(ids) - len(text) + 1)
    return next((i for i in reversed(starts) if ids[i : i + len(text)] == text), 0)
