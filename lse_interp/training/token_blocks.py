"""Text for training: blocks of token ids with labels, and no sentence on both sides.

Blocks come from `data.packing.pack`: documents are joined by token id and cut, so that nothing is
padded but the end of the last block. Labels leave out the prefix and padding.

`authors` repeats the released code instead: every block is decoded to text, encoded again, cut
or padded to the block size, and padding counts as a label.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int32
from torch import Tensor

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.progress import progress
from lse_interp.data.packing import IGNORE, Block, pack
from lse_interp.data.separators import BosAt, Separator
from lse_interp.models.hooked import HookedModel
from lse_interp.models.tokenization import check_block_size
from lse_interp.training.hyperparameters import PROFILES, Hyperparameters, Profile

__all__ = [
    "Packing",
    "Text",
    "TokenBlocks",
    "hashes",
    "pack_text",
    "require_disjoint",
    "token_blocks",
]

_PAPER_TOKENS = 100_000_000

_SENTENCE_END = re.compile(r"(?<=[.!?։؟।])\s+|(?<=[。！？])")
_SHORTEST_PIECE = 16
"""A piece of text with fewer characters may be on both sides: a heading, a name."""


@dataclass(frozen=True)
class Packing:
    """How documents become blocks; see `data.packing.pack`."""

    block_size: int
    prefix: tuple[int, ...] = ()
    bos_at: BosAt = "block"
    separator: Separator = "eos"


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Blocks of one length.

    Attributes:
        ids: Token ids; 0 where `labels` pads.
        labels: The ids, `IGNORE` at positions that are not predicted: the prefix, padding, and the
            first position of a block, which follows nothing.
    """

    ids: Int32[Tensor, "batch pos"]
    labels: Int32[Tensor, "batch pos"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_labels(self) -> int:
        """Number of tokens to predict."""
        return int((self.labels != IGNORE).sum())

    @property
    def digest(self) -> str:
        """A hash of ids and labels, to tell one text from another."""
        found = hashlib.sha256(f"{tuple(self.ids.shape)}".encode())
        found.update(self.ids.numpy().tobytes())
        found.update(self.labels.numpy().tobytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Text:
    """The text that a run reads."""

    training: TokenBlocks
    validation: Mapping[str, TokenBlocks]
    """Language -> blocks; the trained language first."""
    chosen_by: tuple[str, ...]
    """Hashes of the validation text of the trained language, which chooses the weights."""


def pack_text(
    model: HookedModel,
    documents: Callable[[], Iterable[str]],
    validation: Mapping[str, Iterable[str]],
    *,
    language: str,
    n_tokens: int | None,
    options: Hyperparameters,
) -> Text:
    """Pack training and validation text for a model, after checking that they are apart.

    Args:
        model: The model, with its tokenizer.
        documents: Opens the training text, which is read twice.
        validation: Language -> documents, that of `language` among them. At most
            `validation_sentences` of each are taken.
        language: The language trained.
        n_tokens: Text tokens to train on; None takes all, up to the paper's 100 million.
        options: Hyper-parameters with all defaults filled in.

    Raises:
        CorpusError: No text, too little, none to validate on, or the same on both sides.
        LseError: No tokenizer, or a block longer than the model's context.
    """
    n_texts = options.switches.validation_sentences
    held_out = {code: _evenly(list(texts), n_texts) for code, texts in validation.items()}
    if language not in held_out:
        raise CorpusError(
            f"There is no validation text of {language}, which decides the weights to keep; got "
            f"{', '.join(held_out) or 'none'}."
        )
    for code, texts in held_out.items():
        if not any(text.strip() for text in texts):
            raise CorpusError(f"The validation text of {code} is empty. Give another --validation.")
    require_disjoint(documents(), held_out[language], language=language)
    packing = _packing(model, options)
    return Text(
        training=token_blocks(
            documents(),
            model.tokenizer,
            packing,
            n_tokens=n_tokens,
            at_most=_PAPER_TOKENS,
            profile=options.switches,
        ),
        validation={
            code: token_blocks(held_out[code], model.tokenizer, packing)
            for code in dict.fromkeys((language, *held_out))
        },
        chosen_by=tuple(sorted(hashes(held_out[language]))),
    )


def hashes(documents: Iterable[str]) -> set[str]:
    """Hash documents, their lines and their sentences, as `require_disjoint` compares them."""
    pieces = (piece for document in documents for piece in _pieces(document))
    return {hashlib.sha256(piece.encode()).hexdigest()[:12] for piece in pieces}


def token_blocks(
    documents: Iterable[str],
    tokenizer: Any,
    packing: Packing,
    *,
    n_tokens: int | None = None,
    at_most: int | None = None,
    profile: Profile = PROFILES["fixed"],
) -> TokenBlocks:
    """Pack documents into blocks for training or validation.

    Re-encoding (see `Profile`) changes the ids where a block begins or ends inside a character or a
    word, and where the text is cut.

    Args:
        documents: Texts.
        tokenizer: A transformers tokenizer; re-encoded blocks are padded with EOS if it has no
            padding token.
        packing: How to pack.
        n_tokens: Text tokens to take, before they are encoded again; None takes all.
        at_most: With `n_tokens` None, stop after the block in which so many are reached.
        profile: Whether blocks are encoded again, and padding is a label.

    Raises:
        CorpusError: No text, less than `n_tokens`, or too little to predict any of it.
        LseError: To re-encode, the tokenizer has neither a padding token nor EOS.
    """
    fill = _padding(tokenizer) if profile.reencode else 0
    rows, targets = [], []
    blocks = _blocks(documents, tokenizer, packing, n_tokens=n_tokens, at_most=at_most)
    for block in progress(blocks, "making tokens of text", unit="block", announced=False):
        if profile.reencode:
            text = tokenizer.decode(block.ids, skip_special_tokens=True)
            ids = [*packing.prefix, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            row = torch.tensor(ids[: packing.block_size], dtype=torch.int64)
            unpredicted = torch.arange(packing.block_size) < len(packing.prefix)
        else:
            row, unpredicted = block.ids, _is_prefix(block, packing)
        spare = (0, packing.block_size - len(row))
        label = torch.nn.functional.pad(
            row, spare, value=fill if profile.padding_is_label else IGNORE
        )
        label[: len(unpredicted)][unpredicted] = IGNORE
        label[0] = IGNORE
        rows.append(torch.nn.functional.pad(row, spare, value=fill).int())
        targets.append(label.int())
    packed, labels = torch.stack(rows), torch.stack(targets)
    # The mean loss of blocks with nothing to predict would be NaN.
    predicts = (labels != IGNORE).any(dim=1)
    if not predicts.any():
        raise CorpusError(
            "The text is too short to predict any token of it. Give more text, or more --n-tokens."
        )
    return TokenBlocks(packed[predicts], labels[predicts])


def require_disjoint(training: Iterable[str], validation: Iterable[str], *, language: str) -> None:
    """Refuse validation text that is training text too.

    Documents, their lines and their sentences are compared, those of at least 16 characters, with
    case and white space evened out. Text that is merely similar passes.

    Raises:
        CorpusError: The same document, line or sentence is on both sides.
    """
    held_out = {piece for document in validation for piece in _pieces(document)}
    what = "looking for validation text in the training text"
    for document in progress(training, what, unit="document", announced=False):
        for piece in _pieces(document):
            if piece in held_out:
                raise CorpusError(
                    f"Validation text of {language} is also training text, so its loss would say "
                    f"nothing: {piece[:80]!r}. Give other text with --validation, or another "
                    "--split or --corpus."
                )


def _evenly(texts: list[str], n_texts: int | Literal["all"]) -> list[str]:
    """Take so many texts from the whole length: the first may all be of one article."""
    if n_texts == "all" or len(texts) <= n_texts:
        return texts
    return [texts[i * len(texts) // n_texts] for i in range(n_texts)]


def _packing(model: HookedModel, options: Hyperparameters) -> Packing:
    if model.tokenizer is None:
        raise LseError(
            f"{model.name} has no tokenizer, so there is no text to train on. Give "
            "HookedModel(hf, tokenizer) one."
        )
    assert options.block_size is not None
    check_block_size(model, options.block_size)
    separator: Separator = "none" if model.tokenizer.eos_token_id is None else "eos"
    return Packing(
        block_size=options.block_size,
        prefix=model.prefix,
        bos_at=model.defaults.bos_at,
        separator=separator,
    )


def _padding(tokenizer: Any) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise LseError("--profile authors pads, and the tokenizer has neither PAD nor EOS.")


def _is_prefix(block: Block, packing: Packing) -> Bool[Tensor, " pos"]:
    """Find the prefix in a block; a separator is predicted, and may have the same id."""
    if packing.bos_at == "block":
        return torch.arange(len(block.ids)) < len(packing.prefix)
    if packing.separator == "none":
        return ~block.is_text
    # A separator follows text, or is the first of its block, which is not predicted anyway.
    return ~block.is_text & ~block.is_text.roll(1).index_fill(0, torch.tensor(0), False)


def _pieces(document: str) -> Iterator[str]:
    lines = document.splitlines()
    sentences = [part for line in lines for part in _SENTENCE_END.split(line)]
    for piece in dict.fromkeys((document, *lines, *sentences)):
        plain = " ".join(piece.split()).casefold()
        if len(plain) >= _SHORTEST_PIECE:
            yield plain


def _blocks(
    documents: Iterable[str],
    tokenizer: Any,
    packing: Packing,
    *,
    n_tokens: int | None,
    at_most: int | None,
) -> Iterator[Block]:
    blocks = pack(documents, tokenizer, n_tokens=n_tokens, **vars(packing))
    if n_tokens is None and at_most is not None:
        return itertools.takewhile(lambda block: block.start < at_most, blocks)
    return blocks
