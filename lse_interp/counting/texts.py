"""The packed text of many languages, ahead of the model, and tokenised once for all processes.

Each process packs the next language that nobody has claimed while it counts, so that as many are
packed at a time as there are processes. The others read it from a file beside the shards, which
goes with these.
"""

import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import LseError
from lse_interp.core.processes import Processes
from lse_interp.counting.count_settings import Settings
from lse_interp.data import Block, Corpus, pack
from lse_interp.data.prefetch import one_ahead

__all__ = ["TEXT", "PackedText", "pack_corpus", "packed_texts", "text_is_over"]

TEXT = "text.safetensors"
"""Name of the file, in the folder of a language's shards."""

_IN_MEMORY = "in memory"
_CLAIMED = "texts claimed"
_AHEAD = 2
"""Texts that are packed ahead, per process."""
_SECONDS_BETWEEN_LOOKS = 0.05
# A process that packs a text for hours is waited for as long as it shows that it lives; one whose
# machine vanished does not, and nobody else says so.
_SECONDS_BETWEEN_BEATS = 5.0
_PATIENCE_SECONDS = 120.0


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
        about = json.dumps([self.spec, self.split, self.source]).encode()
        tensors["about"] = torch.frombuffer(bytearray(about), dtype=torch.uint8)
        write_atomic(path, lambda out: save_file(tensors, out))

    @classmethod
    def load(cls, path: Path) -> "PackedText":
        """Read what `save` wrote.

        Raises:
            OSError: It is not there.
        """
        # Not mapped into memory: another process may delete the file while this one counts.
        tensors = load(path.read_bytes())
        about = json.loads(tensors["about"].numpy().tobytes())
        blocks = _blocks(tensors["ids"].long(), tensors["is_text"], tensors["length"])
        return cls(list(blocks), *about)


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
    ranks: Processes,
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
    sharing = _Sharing(languages, read, ranks=ranks, folder=folder)
    with sharing.packing_ahead():
        for position, language in enumerate(languages):
            began = time.monotonic()
            sharing.position = position
            yield language, sharing.fetch(language), time.monotonic() - began


def text_is_over(language: str, ranks: Processes) -> None:
    """Tell processes that come late for a text that its counts are there; it may be deleted."""
    ranks.add(_key("over", language), 1)


class _Sharing:
    """What one process packs for all of them, and gets from them."""

    def __init__(
        self,
        languages: Sequence[str],
        read: Callable[[str], PackedText],
        *,
        ranks: Processes,
        folder: Callable[[str], Path],
    ) -> None:
        self.position = 0
        self._languages, self._read, self._ranks, self._folder = languages, read, ranks, folder
        self._reading = threading.Lock()
        self._failed: dict[str, Exception] = {}
        self._stopped = threading.Event()

    @contextlib.contextmanager
    def packing_ahead(self) -> Iterator[None]:
        """Pack in the background as long as the `with` block lasts."""
        # Daemons: a caller that fails is not held up by a download it no longer needs.
        for work in (self._pack_ahead, self._beat):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()
        try:
            yield
        finally:
            self._stopped.set()

    def fetch(self, language: str) -> PackedText | None:
        """Wait for a text; None if its counts are there already."""
        seen, since = self._sign_of_life(language), time.monotonic()
        while not self._is("over", language):
            self._ranks.require_all()
            if language in self._failed:
                raise self._failed[language]
            if self._is("packed", language):
                # Where it is not there: it is over by now, or not yet seen on this machine.
                with contextlib.suppress(OSError):
                    return PackedText.load(self._folder(language) / TEXT)
            if (sign := self._sign_of_life(language)) != seen:
                seen, since = sign, time.monotonic()
            is_alone = time.monotonic() - since > _PATIENCE_SECONDS
            if is_alone and self._reading.acquire(blocking=False):
                try:
                    return self._read(language)
                finally:
                    self._reading.release()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return None

    def _sign_of_life(self, language: str) -> tuple[int, int]:
        """Say who packs a text, and how often it was heard of; this changes while it lives."""
        packer = self._ranks.add(_key("packer", language), 0) - 1
        return packer, self._ranks.add(_beats(packer), 0)

    def _beat(self) -> None:
        with contextlib.suppress(LseError):
            while not self._stopped.wait(_SECONDS_BETWEEN_BEATS):
                self._ranks.add(_beats(self._ranks.rank), 1)

    def _pack_ahead(self) -> None:
        # Where the counters are gone, the caller finds out by itself.
        with contextlib.suppress(LseError):
            while not self._stopped.is_set():
                n_claimed = self._ranks.add(_CLAIMED, 0)
                if n_claimed >= len(self._languages):
                    return
                if n_claimed >= self.position + _AHEAD * self._ranks.world:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                    continue
                claimed = self._ranks.add(_CLAIMED, 1) - 1
                # Another may have taken the last one meanwhile.
                if claimed < len(self._languages):
                    language = self._languages[claimed]
                    self._ranks.add(_key("packer", language), self._ranks.rank + 1)
                    self._publish(language)

    def _publish(self, language: str) -> None:
        path = self._folder(language) / TEXT
        try:
            with self._reading:
                if self._is("over", language):
                    return
                text = self._read(language)
            text.save(path)
        except Exception as error:
            self._failed[language] = error
            return
        self._ranks.add(_key("packed", language), 1)
        # Whoever lost patience has packed it too, and its folder is gone, or was.
        if self._is("over", language):
            with contextlib.suppress(OSError):
                path.unlink()
                path.parent.rmdir()

    def _is(self, state: str, language: str) -> bool:
        return self._ranks.add(_key(state, language), 0) > 0


def _blocks(ids: Tensor, is_text: Tensor, length: Tensor) -> Iterator[Block]:
    sizes, start = length.tolist(), 0
    for block_ids, block_is_text in zip(ids.split(sizes), is_text.split(sizes), strict=True):
        block = Block(block_ids, block_is_text, start)
        yield block
        start += block.n_text


def _beats(rank: int) -> str:
    return f"signs of life of {rank}"


def _key(state: str, language: str) -> str:
    return f"text of {language} {state}"
