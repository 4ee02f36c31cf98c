"""In which order a process reads blocks: each block once per epoch, however many processes share.

Consecutive batches go to the processes in turn, so that n processes take together what one with n
times the batch takes. Where blocks run out in an epoch's last round, empty ones, which predict
nothing, fill it up; none is read twice.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from lse_interp.data.packing import IGNORE
from lse_interp.training.token_blocks import TokenBlocks

__all__ = ["BatchesInTurn", "training_batches"]


class BatchesInTurn(BatchSampler):
    """The batches of one process, as indices; `n_blocks` itself stands for an empty block.

    Args:
        n_blocks: Number of blocks.
        batch_size: Blocks per batch.
        seed: Of the order, with the epoch added to it.
        epoch: Returns the epoch that begins.
        rank: Which process.
        world: How many.
    """

    def __init__(
        self,
        n_blocks: int,
        *,
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.n_blocks, self.batch_size = n_blocks, batch_size
        self.rank, self.world = rank, world
        self._seed, self._epoch = seed, epoch

    def __len__(self) -> int:
        return math.ceil(self.n_blocks / (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch())
        order = torch.randperm(self.n_blocks, generator=generator).tolist()
        if self.world > 1:
            spare = len(self) * self.batch_size * self.world - self.n_blocks
            order += [self.n_blocks] * spare
        batches = range(0, len(order), self.batch_size)
        for start in batches[self.rank :: self.world]:
            yield order[start : start + self.batch_size]


class _WithEmpty(Dataset):
    """Blocks, with an empty one behind the last."""

    def __init__(self, blocks: TokenBlocks) -> None:
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index < len(self._blocks):
            return self._blocks[index]
        ids = torch.zeros(self._blocks.ids.shape[1], dtype=torch.int64)
        return {"input_ids": ids, "labels": torch.full_like(ids, IGNORE)}


def training_batches(
    blocks: TokenBlocks, batches: BatchesInTurn, *, collate: Callable[..., Any], pin_memory: bool
) -> DataLoader:
    """Return the loader of one process."""
    return DataLoader(
        _WithEmpty(blocks), batch_sampler=batches, collate_fn=collate, pin_memory=pin_memory
    )
