"""PackedText: a corpus as the model reads it, packed once per launch for all processes.

Language i of a launch is packed by process i modulo the number of processes, one of its languages
ahead of the model. The others map its file into memory.
"""

import functools
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int32, Int64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import LseError
from lse_interp.core.processes import Processes
from lse_interp.core.progress import progress
from lse_interp.counting.count_settings import CountSettings
from lse_interp.data.corpora import Corpus
from lse_interp.data.packing import Block, pack

__all__ = ["FILE_NAME", "PackedText", "texts_ahead"]

FILE_NAME = "text.safetensors"
"""Name of the file, in the folder of a language's shards."""

_IN_MEMORY = "in memory"
_SECONDS_BETWEEN_LOOKS = 0.05
_LONGEST_WAIT = 6 * 3600.0
"""Seconds. A launcher ends the others when a process is killed; without one, nobody is told."""


@dataclass(frozen=True, eq=False)
class PackedText:
    """The token blocks of one corpus, one after the other; all but the last have one length."""

    ids: Int32[Tensor, " pos"]
    is_text: Bool[Tensor, " pos"]
    block_size: int
    spec: str
    """The corpus as it was asked for."""
    split: str | None
    source: str
    """Where the text came from."""
    digest: str
    """Hash of the token ids, and of which of them are text (16 hexadecimal digits)."""

    @classmethod
    def pack(
        cls, corpus: Corpus | Iterable[str], tokenizer: Any, settings: CountSettings
    ) -> "PackedText":
        """Tokenise and pack a corpus, or documents.

        All of it at once, so that text too short is refused before the first forward pass.

        Args:
            corpus: The text.
            tokenizer: That of the model.
            settings: Resolved ones.

        Raises:
            CorpusError: Less text than `settings.n_tokens`, or none.
        """
        assert settings.block_size is not None
        assert settings.bos_at is not None and settings.prefix is not None
        named = corpus if isinstance(corpus, Corpus) else None
        ids, is_text, digest = [], [], hashlib.sha256()
        blocks = pack(
            corpus.documents() if isinstance(corpus, Corpus) else corpus,
            tokenizer,
            block_size=settings.block_size,
            n_tokens=None if settings.n_tokens == "all" else settings.n_tokens,
            prefix=settings.prefix,
            bos_at=settings.bos_at,
            separator=settings.separator,
        )
        what = f"making tokens of {named.language if named else 'the'} text"
        for block in progress(blocks, what, unit="block", announced=False):
            digest.update(block.ids.numpy().tobytes())
            digest.update(block.is_text.numpy().tobytes())
            ids.append(block.ids.int())
            is_text.append(block.is_text)
        return cls(
            torch.cat(ids),
            torch.cat(is_text),
            settings.block_size,
            spec=named.spec if named else _IN_MEMORY,
            split=named.split if named else None,
            source=named.source if named else _IN_MEMORY,
            digest=digest.hexdigest()[:16],
        )

    @property
    def n_tokens(self) -> int:
        """Text tokens."""
        return int(self.is_text.sum())

    def shards(self, n_shards: int) -> list[range]:
        """Cut the text into at most `n_shards` runs of consecutive blocks with about as much text.

        The cuts depend on nothing but the text and the number. No shard is smaller than a block,
        so a short text has fewer of them.

        Returns:
            The numbers of the blocks in each shard.
        """
        tokens_per_shard = max(-(-self.n_tokens // n_shards), self.block_size)
        _, sizes = torch.unique_consecutive(self._starts // tokens_per_shard, return_counts=True)
        return [
            range(int(end - size), int(end))
            for size, end in zip(sizes, sizes.cumsum(0), strict=True)
        ]

    def blocks(self, chosen: range) -> Iterator[Block]:
        """Give some of the blocks, by number."""
        for number in chosen:
            at = slice(number * self.block_size, (number + 1) * self.block_size)
            yield Block(self.ids[at].long(), self.is_text[at], int(self._starts[number]))

    @functools.cached_property
    def _starts(self) -> Int64[Tensor, " block"]:
        """Count the text tokens before each block."""
        missing = -len(self.ids) % self.block_size
        n_text = pad(self.is_text, (0, missing)).view(-1, self.block_size).sum(dim=1)
        return n_text.cumsum(0) - n_text

    def save(self, path: Path) -> None:
        """Write the text for other processes."""
        names = (self.block_size, self.spec, self.split, self.source, self.digest)
        about = {"about": json.dumps(names)}
        tensors = {"ids": self.ids, "is_text": self.is_text}
        write_atomic(path, lambda out: save_file(tensors, out, metadata=about))

    @classmethod
    def load(cls, path: Path) -> "PackedText":
        """Map what `save` wrote into memory."""
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            return cls(file.get_tensor("ids"), file.get_tensor("is_text"), *about)


def texts_ahead(
    languages: Sequence[str],
    read: Callable[[str], PackedText],
    *,
    processes: Processes,
    folder: Callable[[str], Path],
) -> Iterator[tuple[str, PackedText, float]]:
    """Give each language's text, which is packed while the caller counts the one before.

    Args:
        languages: The same in every process.
        read: Reads and packs one; called by one thread at a time.
        processes: The processes.
        folder: Language -> the folder in which processes find its text. It is not used by one
            process alone.

    Yields:
        Language, text and the seconds the caller has waited for it.

    Raises:
        LseError: What `read` raises, at its language's turn; or another process has failed, or
            was killed six hours ago.
    """

    def publish(language: str) -> PackedText:
        text = read(language)
        if processes.world > 1:
            text.save(folder(language) / FILE_NAME)
        return text

    packed = _started(publish, languages[processes.rank :])
    for number, language in enumerate(languages):
        began = time.monotonic()
        if number % processes.world == processes.rank:
            text = packed.result()
            packed = _started(publish, languages[number + processes.world :])
        else:
            text = _fetch(folder(language) / FILE_NAME, processes)
        yield language, text, time.monotonic() - began
        # Before the next one is held too.
        del text


def _started(publish: Callable[[str], PackedText], languages: Sequence[str]) -> Future[PackedText]:
    """Pack the first of the languages, if there is one, in the background."""
    future: Future[PackedText] = Future()

    def work() -> None:
        try:
            future.set_result(publish(languages[0]))
        except BaseException as error:
            future.set_exception(error)

    if languages:
        # A daemon: a caller that fails does not wait for a download it no longer needs.
        threading.Thread(target=work, daemon=True, name="pack").start()
    return future


def _fetch(path: Path, processes: Processes) -> PackedText:
    began = time.monotonic()
    while not path.exists():
        processes.require_all()
        if time.monotonic() - began > _LONGEST_WAIT:
            raise LseError(
                f"No process has written {path} for {_LONGEST_WAIT / 3600:g} hours, so the one "
                "that packs this text was probably killed. End all processes, and repeat the "
                "command to resume."
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return PackedText.load(path)
