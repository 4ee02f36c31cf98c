"""From shards of blocks to counts: each process counts what no other has claimed."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.core.processes import Processes
from lse_interp.counting.counter import NeuronCounter
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.shard_store import Shard, ShardStore
from lse_interp.data import Block, batches
from lse_interp.data.packing import shards
from lse_interp.models import HookedModel

__all__ = ["SharedCount", "shard_blocks", "text_digest"]


def shard_blocks(blocks: Sequence[Block], *, n_shards: int, block_size: int) -> list[list[Block]]:
    """Cut a corpus into at most `n_shards` runs of consecutive blocks with about as much text.

    The cuts depend on nothing but the blocks and the two numbers. No shard is smaller than a
    block, so a short corpus has fewer of them.
    """
    n_tokens = blocks[-1].start + blocks[-1].n_text
    tokens_per_shard = max(-(-n_tokens // n_shards), block_size)
    return [list(group) for _, group in shards(blocks, tokens_per_shard=tokens_per_shard)]


def text_digest(blocks: Iterable[Block]) -> str:
    """Hash the token ids of a corpus, and which of them are text (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block.ids.numpy().tobytes())
        digest.update(block.is_text.numpy().tobytes())
    return digest.hexdigest()[:16]


class SharedCount:
    """The count of one language, to which every process adds the shards it claims.

    Nobody waits: a process that finds every shard claimed is free for the next language, and the
    counts can be merged once `is_complete`. Which process counts a shard does not change it.

    Args:
        model: The model to run.
        language: ISO 639-3; one count per language and `ranks`.
        site: Kind of site to read.
        batch_size: Blocks per forward pass; a pass never spans two shards.
        settings: Everything that the counts depend on, for their provenance.
        source: Where the text came from.
        ranks: This process among those that share the work.
        store: Where finished shards are kept; None keeps them in memory.

    Raises:
        LseError: Several processes and no `store` to meet in.
    """

    def __init__(
        self,
        model: HookedModel,
        *,
        language: str,
        site: str,
        batch_size: int,
        settings: Mapping[str, Any],
        source: str,
        ranks: Processes,
        store: ShardStore | None,
    ) -> None:
        if store is None and ranks.world > 1:
            raise LseError(
                f"{ranks.world} processes exchange their shards through a folder that all of them "
                "see; pass workdir."
            )
        self.language = language
        self.store = store
        self._model, self._info = model, model.info
        self._site, self._batch_size = site, batch_size
        self._settings, self._source = settings, source
        self._ranks = ranks
        self._mine: dict[int, Shard] = {}
        self._n_shards = 0

    def count(
        self,
        groups: Sequence[Sequence[Block]],
        *,
        advance: Callable[[int], object],
        seconds_waiting: float = 0.0,
    ) -> None:
        """Count shards until all are claimed; those that are there already are only read.

        Args:
            groups: The blocks of each shard, the same in every process.
            advance: Called with the number of text tokens that all processes have done since the
                last call.
            seconds_waiting: How long this process has waited for the text.

        Raises:
            ActivationError: A layer gave values that are not finite.
            MismatchError: `store` holds shards of other settings.
            ArtifactError: A shard in `store` was altered.
            LseError: Another process has ended.
        """
        since, shown = time.monotonic() - seconds_waiting, 0
        self._add("ms waiting", round(1000 * seconds_waiting))
        self._n_shards = len(groups)
        counter: NeuronCounter | None = None
        there: set[int] | None = None

        def step(n_tokens: int) -> None:
            nonlocal shown
            shown += n_tokens
            advance(n_tokens)

        while (index := self._claim()) < len(groups):
            if there is None:
                # Behind the first claim, as the folder of a language that is done may be deleted.
                there = set() if self.store is None else self.store.indices()
            if self.store is not None and index in there:
                shard = self.store.load(index)
                self._add("reused", 1)
                self._add("tokens reused", shard.n_tokens)
            else:
                counter = counter or NeuronCounter(self._model, self._site)
                what = f"{self.language} text (shard {index} of {len(groups)})"
                shard = self._count(counter, groups[index], what=what, advance=step)
                if self.store is not None:
                    self.store.save(index, shard)
            self._mine[index] = shard
            step(self._add("tokens", shard.n_tokens) - shown)
            now = time.monotonic()
            self._add("ms", round(1000 * (now - since)))
            since = now
            # Last, as whoever sees all shards done may merge.
            self._add("done", 1)

    @property
    def is_complete(self) -> bool:
        """Whether every shard is there."""
        return self._add("done", 0) == self._n_shards > 0

    def merged(self) -> ActivationCounts:
        """Put the shards of all processes together.

        Raises:
            ArtifactError: A shard of another process cannot be seen from this one.
        """
        found = [self._shard(index) for index in range(self._n_shards)]
        world = self._ranks.world
        n_tokens = sum(shard.n_tokens for shard in found)
        return ActivationCounts(
            language=self.language,
            model=self._info,
            site=self._site,
            shard_n_positive=torch.stack([shard.n_positive for shard in found]),
            shard_activation_sum=torch.stack([shard.activation_sum for shard in found]),
            shard_n_tokens=torch.tensor([shard.n_tokens for shard in found]),
            provenance=provenance(
                settings=self._settings,
                source=self._source,
                n_processes=world,
                n_shards_reused=self._add("reused", 0),
                n_tokens_counted=n_tokens - self._add("tokens reused", 0),
                # Of several processes, the mean.
                seconds=self._add("ms", 0) / 1000 / world,
                seconds_waiting=self._add("ms waiting", 0) / 1000 / world,
            ),
        )

    def _shard(self, index: int) -> Shard:
        if index in self._mine:
            return self._mine[index]
        try:
            assert self.store is not None, "without a store, every shard is this process's own"
            return self.store.load(index)
        except ArtifactError as error:
            error.add_note(
                f"Another process has counted shard {index} of {self.language}. All processes "
                "must see one folder; give them a shared file system, or count parts of the "
                "corpus apart and `merge` them."
            )
            raise

    def _count(
        self,
        counter: NeuronCounter,
        blocks: Iterable[Block],
        *,
        what: str,
        advance: Callable[[int], object],
    ) -> Shard:
        n_tokens = 0
        for ids, is_text in batches(blocks, self._batch_size):
            counter.add(ids, is_text)
            n_text = int(is_text.sum())
            n_tokens += n_text
            advance(n_text)
        n_positive, activation_sum = counter.finish(what=what)
        return Shard(n_positive, activation_sum, n_tokens)

    def _claim(self) -> int:
        self._ranks.require_all()
        return self._add("claimed", 1) - 1

    def _add(self, name: str, n: int) -> int:
        return self._ranks.add(self._key(name), n)

    def _key(self, name: str) -> str:
        return f"{self.language} {name}"
