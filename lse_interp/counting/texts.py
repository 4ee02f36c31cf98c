"""The packed text of many languages, one ahead of the model, and tokenised once for all processes.

Of w processes, process r packs languages r, r + w, ..., so that w of them are packed at a time. The
others read what it packed from a file beside the shards, which goes with these.
"""

import functools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lse_interp.core.writing import write_atomic
from lse_interp.counting.ranks import Ranks
from lse_interp.counting.settings import Settings
from lse_interp.data import Block, Corpus, pack
from lse_interp.data.prefetch import one_ahead

__all__ = ["TEXT", "PackedText", "pack_corpus", "packed_texts", "text_is_over"]

TEXT = "text.safetensors"
"""Name of the file, in the folder of a language's shards."""

_IN_MEMORY = "in memory"
# Then the process that should pack a text may be gone, on a machine that nobody hears from.
_PATIENCE_SECONDS = 600.0
_SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class PackedText:
    """What a model reads of one corpus."""

    blocks: list[Block]
    spec: str
    """The corpus as it was asked for."""
    split: str | None
    source: str
    """Where the text came from."""

    def save(self, path: Path) -> None:
        """Write the text for other processes."""
        tensors = {
            "ids": torch.cat([block.ids for block in self.blocks]).int(),
            "is_text": torch.cat([block.is_text for block in self.blocks]),
            "length": torch.tensor([len(block.ids) for block in self.blocks]),
        }
        about = {"spec": self.spec, "split": self.split, "source": self.source}
        metadata = {"about": json.dumps(about)}
        write_atomic(path, lambda out: save_file(tensors, out, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> "PackedText":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: It is not there.
        """
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            ids, is_text, length = (file.get_tensor(n) for n in ("ids", "is_text", "length"))
        return cls(list(_blocks(ids.long(), is_text, length)), **about)


def pack_corpus(corpus: Corpus | Iterable[str], tokenizer: Any, settings: Settings) -> PackedText:
    """Tokenise and pack a corpus, or documents.

    All of it at once, so that text too short is refused before the first forward pass.

    Raises:
        CorpusError: Less text than `settings.n_tokens`, or none.
    """
    assert settings.bos != "auto"
    blocks = pack(
        corpus.documents() if isinstance(corpus, Corpus) else corpus,
        tokenizer,
        block_size=settings.block_size,
        n_tokens=settings.n_tokens,
        bos=settings.bos,
        separator=settings.separator,
    )
    if isinstance(corpus, Corpus):
        return PackedText(list(blocks), corpus.spec, corpus.split, corpus.source)
    return PackedText(list(blocks), _IN_MEMORY, None, _IN_MEMORY)


def packed_texts(
    languages: Sequence[str],
    read: Callable[[str], PackedText],
    *,
    ranks: Ranks,
    folder: Callable[[str], Path],
) -> Iterator[tuple[str, PackedText | None, float]]:
    """Give each language's text, which is read while the caller works with the one before.

    Args:
        languages: The same in every process.
        read: Reads and packs one; called by one thread at a time.
        ranks: The processes.
        folder: Language -> the folder in which processes hand a text on.

    Yields:
        Language, text and the seconds the caller has waited for it. The text is None if other
        processes have already counted all of it (see `text_is_over`).

    Raises:
        LseError: What `read` raises, at its language's turn; or another process has ended.
    """
    if ranks.world == 1:
        jobs = [functools.partial(read, language) for language in languages]
        for language, ahead in zip(languages, one_ahead(jobs), strict=True):
            yield language, *ahead.result()
        return
    one_at_a_time = threading.Lock()

    def read_alone(language: str) -> PackedText:
        with one_at_a_time:
            return read(language)

    def publish(language: str) -> None:
        read_alone(language).save(folder(language) / TEXT)
        ranks.add(_packed(language), 1)

    own = languages[ranks.rank :: ranks.world]
    published = one_ahead([functools.partial(publish, language) for language in own])
    # Begins with the first two of them, long before their turn.
    following = next(published, None)
    for language in languages:
        began = time.monotonic()
        if language in own:
            assert following is not None
            following.result()
            following = next(published, None)
        text = _fetch(language, ranks=ranks, path=folder(language) / TEXT, read=read_alone)
        yield language, text, time.monotonic() - began


def text_is_over(language: str, ranks: Ranks) -> None:
    """Tell processes that come late for a text that its counts are there; it may be deleted."""
    ranks.add(_over(language), 1)


def _fetch(
    language: str, *, ranks: Ranks, path: Path, read: Callable[[str], PackedText]
) -> PackedText | None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not ranks.add(_over(language), 0):
        ranks.require_all()
        if ranks.add(_packed(language), 0):
            try:
                return PackedText.load(path)
            except FileNotFoundError:
                # It is over by now, or this machine does not see the file yet.
                pass
        if time.monotonic() > give_up:
            return read(language)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return None


def _blocks(ids: Tensor, is_text: Tensor, length: Tensor) -> Iterator[Block]:
    sizes, start = length.tolist(), 0
    for block_ids, block_is_text in zip(ids.split(sizes), is_text.split(sizes), strict=True):
        block = Block(block_ids, block_is_text, start)
        yield block
        start += block.n_text


def _packed(language: str) -> str:
    return f"{language} packed"


def _over(language: str) -> str:
    return f"{language} over"
