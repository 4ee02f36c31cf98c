"""Weights that FSDP2 keeps in parts, one on each process, and how to reach all or one's own."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lse_interp.core.errors import UnsupportedModelError

__all__ = ["assign", "local_part", "stand_ins", "whole"]


@torch.no_grad()
def whole(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return all of a tensor. One that is sharded is gathered: every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Shaped[Tensor, "..."]) -> tuple[Shaped[Tensor, "..."], int]:
    """Return the part of a tensor this process holds, and where it begins along axis 0.

    A tensor that is not sharded is its own part. Sharding along axis 0, the only kind that FSDP2
    makes unless told otherwise, cuts it into pieces of ceil(size / processes).

    Raises:
        UnsupportedModelError: Sharding along another axis.
    """
    if not isinstance(tensor, DTensor):
        return tensor, 0
    start = 0
    for mesh_dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            continue
        if not placement.is_shard(0):
            raise UnsupportedModelError(
                f"Neurons are written into weights sharded along axis 0 (FSDP2); found {placement}."
            )
        n_parts = tensor.device_mesh.size(mesh_dim)
        rank = tensor.device_mesh.get_local_rank(mesh_dim)
        start = min(rank * -(-tensor.shape[0] // n_parts), tensor.shape[0])
    return tensor.to_local(), start


@torch.no_grad()
def assign(tensor: Shaped[Tensor, "..."], values: Shaped[Tensor, "..."]) -> None:
    """Give a tensor new values; of a sharded one, this process writes its own part."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(values)
        return
    part, start = local_part(tensor)
    part.copy_(values[start : start + part.shape[0]])


@contextlib.contextmanager
def stand_ins(module: nn.Module) -> Iterator[None]:
    """Show sharded weights as whole ones without values, to code that reads no more than shapes.

    What is set of `requires_grad` meanwhile holds for the weights afterwards.
    """
    held: list[tuple[nn.Module, str, Any]] = [
        (owner, name, weight)
        for owner in module.modules()
        for name, weight in owner._parameters.items()
        if isinstance(weight, DTensor)
    ]
    for owner, name, weight in held:
        # One number, as often as the shape asks for.
        empty = weight.to_local().detach().new_zeros(()).expand(weight.shape)
        owner._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
    try:
        yield
    finally:
        for owner, name, weight in held:
            weight.requires_grad_(owner.get_parameter(name).requires_grad)
            owner._parameters[name] = weight
