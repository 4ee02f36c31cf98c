"""A set of neurons in its two forms: indices layer by layer, or a mask [layer neuron]."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

__all__ = ["indices_to_mask", "mask_to_indices"]


def mask_to_indices(
    mask: Bool[Tensor, "layer neuron"],
) -> tuple[Int64[Tensor, " _neuron"], ...]:
    """List the marked neurons of each layer in ascending order.

    >>> [row.tolist() for row in mask_to_indices(torch.tensor([[True, False], [False, False]]))]
    [[0], []]
    """
    return tuple(row.nonzero().flatten() for row in mask)


def indices_to_mask(
    indices: Sequence[Int64[Tensor, " _neuron"]], *, d_mlp: int
) -> Bool[Tensor, "layer neuron"]:
    """Mark the neurons listed for each layer; the inverse of `mask_to_indices`.

    >>> indices_to_mask([torch.tensor([0]), torch.tensor([], dtype=torch.int64)], d_mlp=2).tolist()
    [[True, False], [False, False]]
    """
    mask = torch.zeros(len(indices), d_mlp, dtype=torch.bool)
    for row, neurons in zip(mask, indices, strict=True):
        row[neurons] = True
    return mask
