"""The order in which processes read blocks: every block once per epoch.

Consecutive batches go to the processes in turn, so n processes together read what one process with
n times the batch size reads. In the last round of an epoch, empty blocks, which predict nothing,
fill up the places for which no block is left.
"""

import math

import torch
from jaxtyping import Int32

from lse_interp.data.packing import IGNORE
from lse_interp.training.token_blocks import TokenBlocks

__all__ = ["batches_of_epoch", "n_batches", "take"]


def n_batches(n_blocks: int, *, batch_size: int, world: int = 1) -> int:
    """Return how many batches each process reads in an epoch."""
    return math.ceil(n_blocks / (batch_size * world))


def batches_of_epoch(
    n_blocks: int, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[list[int]]:
    """List the batches of one process as indices of blocks; `n_blocks` itself is an empty block.

    Args:
        n_blocks: Number of blocks.
        batch_size: Blocks per batch.
        seed: Of the order; the epoch is added to it.
        epoch: Which pass over the text, from 0.
        rank: Which process.
        world: How many processes.
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(n_blocks, generator=generator).tolist()
    if world > 1:
        places = n_batches(n_blocks, batch_size=batch_size, world=world) * batch_size * world
        order += [n_blocks] * (places - n_blocks)
    starts = range(0, len(order), batch_size)
    return [order[start : start + batch_size] for start in starts[rank::world]]


def take(blocks: TokenBlocks, indices: list[int]) -> TokenBlocks:
    """Return some blocks; the index after the last block is an empty one."""
    width = blocks.ids.shape[1]

    def rows(values: Int32[torch.Tensor, "batch pos"], fill: int) -> torch.Tensor:
        empty = values.new_full((width,), fill)
        return torch.stack([values[i] if i < len(blocks) else empty for i in indices])

    return TokenBlocks(rows(blocks.ids, 0), rows(blocks.labels, IGNORE))
