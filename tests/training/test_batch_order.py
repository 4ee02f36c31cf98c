"""Every process reads its share of the blocks, and no block is read twice."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lse_interp.data.packing import IGNORE
from lse_interp.training.batch_order import batches_of_epoch, n_batches, take
from lse_interp.training.token_blocks import TokenBlocks


def batches(n_blocks, *, epoch=0, seed=5, batch_size=2, rank=0, world=1):
    return batches_of_epoch(
        n_blocks, batch_size=batch_size, seed=seed, epoch=epoch, rank=rank, world=world
    )


def test_batches_of_two_processes_by_hand():
    order = torch.randperm(5, generator=torch.Generator().manual_seed(5 + 3)).tolist()
    a, b, c, d, e = order
    assert batches(5, epoch=3) == [[a, b], [c, d], [e]]
    assert batches(5, epoch=3, rank=0, world=2) == [[a, b], [e, 5]]
    assert batches(5, epoch=3, rank=1, world=2) == [[c, d], [5, 5]]


@given(
    n_blocks=st.integers(1, 40),
    batch_size=st.integers(1, 4),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_processes_take_together_what_one_takes_alone(n_blocks, batch_size, world, epoch):
    alone = batches(n_blocks, batch_size=batch_size * world, epoch=epoch)
    shared = [
        batches(n_blocks, batch_size=batch_size, epoch=epoch, rank=rank, world=world)
        for rank in range(world)
    ]
    assert {len(share) for share in shared} == {len(alone)}
    assert len(alone) == n_batches(n_blocks, batch_size=batch_size, world=world)
    steps = zip(*shared, strict=True)
    together = [[i for batch in step for i in batch if i < n_blocks] for step in steps]
    assert together == alone
    assert sorted(i for step in together for i in step) == list(range(n_blocks))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [batches(30, epoch=e, seed=s) for e, s in ((0, 5), (1, 5), (0, 6), (0, 5))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[0] != orders[2]


def test_an_empty_block_predicts_nothing():
    ids = torch.arange(6, dtype=torch.int32).view(2, 3)
    found = take(TokenBlocks(ids, ids), [1, 2, 0])
    assert found.ids.tolist() == [[3, 4, 5], [0, 0, 0], [0, 1, 2]]
    assert found.labels.tolist() == [[3, 4, 5], [IGNORE] * 3, [0, 1, 2]]
