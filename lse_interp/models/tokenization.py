"""Text as token ids, and whether it fits the model."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from lse_interp.core.errors import CorpusError, LseError

__all__ = ["TextModel", "auto_bos", "check_block_size", "check_lengths", "token_ids"]


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


def token_ids(model: TextModel, sentences: Sequence[str]) -> list[list[int]]:
    """Tokenise sentences without special tokens.

    Raises:
        LseError: the model has no tokenizer.
        CorpusError: no sentences.
    """
    tokenizer = _tokenizer(model)
    if not sentences:
        raise CorpusError("There is no sentence; give at least one.")
    return tokenizer(list(sentences), add_special_tokens=False)["input_ids"]


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


def check_lengths(model: TextModel, ids: Sequence[list[int]], *, n_prefix: int) -> None:
    """Refuse a sentence without tokens, or longer than the model can read.

    Raises:
        CorpusError: names the sentence.
    """
    shortest = min(range(len(ids)), key=lambda i: len(ids[i]))
    if not ids[shortest]:
        raise CorpusError(f"Sentence {shortest + 1} has no token. Remove it, or fill it.")
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    n_tokens = n_prefix + len(ids[longest])
    context = getattr(model.hf.config, "max_position_embeddings", None)
    if context is not None and n_tokens > context:
        raise CorpusError(
            f"Sentence {longest + 1} has {n_tokens} tokens, more than the {context} positions of "
            f"{model.name}. Leave it out, or use a model with a longer context."
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
