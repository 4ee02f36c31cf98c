"""Training a model whose blocks are spread over processes (FSDP2), leaf by leaf.

FSDP2 itself gathers a block when it computes, and reduces the gradients of weights that are trained
in parts. This module does the rest. It averages the gradients of leaves that every process holds
whole. It keeps the two kinds apart in norms and optimizer steps. It collects whole tensors for
checkpoints, so a run can be resumed whichever way the model is held.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lse_interp.models.placement.dtensors import assign, whole

__all__ = [
    "average_gradients",
    "by_kind",
    "gathered",
    "hand_out",
    "is_sharded",
    "make_moments",
    "moments",
    "release",
    "shard_root",
]


def is_sharded(weights: Iterable[Tensor]) -> bool:
    """Say whether some of the weights are in parts."""
    return any(isinstance(weight, DTensor) for weight in weights)


def by_kind(leaves: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Divide leaves into those held whole and those in parts, which no operation mixes."""
    kinds: dict[bool, list[nn.Parameter]] = {}
    for leaf in leaves:
        kinds.setdefault(isinstance(leaf, DTensor), []).append(leaf)
    return list(kinds.values())


def shard_root(root: nn.Module, *methods: str) -> None:
    """Tie sharded blocks together below the module whose forward pass runs them.

    Weights outside the blocks stay as they are.

    Args:
        root: The module that is called.
        methods: Further methods of it that run blocks.
    """
    weights = list(root.parameters())
    mesh = next(weight.device_mesh for weight in weights if isinstance(weight, DTensor))
    apart = {weight for weight in weights if not isinstance(weight, DTensor)}
    fully_shard(root, mesh=mesh, ignored_params=apart)
    for method in methods:
        register_fsdp_forward_method(root, method)


def release(root: nn.Module) -> None:
    """Free the parts of other processes that blocks still hold after a pass without gradients."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def average_gradients(leaves: Iterable[nn.Parameter]) -> None:
    """Average the gradients of leaves that every process holds whole."""
    for leaf in leaves:
        if leaf.grad is not None and not isinstance(leaf, DTensor):
            distributed.all_reduce(leaf.grad)
            leaf.grad /= distributed.get_world_size()


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return whole tensors on the host. Every process has to call this.

    Args:
        tensors: Tensors by name.
        keep: Whether this process wants them; otherwise it only lends its parts.
    """
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if keep:
            found[name] = value.cpu()
    return found


@torch.no_grad()
def hand_out(values: Mapping[str, Tensor] | None, tensors: Mapping[str, Tensor]) -> None:
    """Give the tensors of all processes the values that the main process has.

    Args:
        values: Whole tensors by name; None in the other processes.
        tensors: The tensors of this process, or its parts of them.
    """
    for name, tensor in tensors.items():
        if not distributed.is_initialized():
            assert values is not None
            tensor.copy_(values[name])
            continue
        if values is None:
            value = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        else:
            value = values[name].to(tensor.device, tensor.dtype)
        distributed.broadcast(value, src=0)
        assign(tensor.detach(), value)


def moments(
    optimizer: torch.optim.Optimizer, leaves: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the state of an optimizer by the name of the leaf and the state: `0/exp_avg`."""
    return {
        f"{name}/{key}": value
        for name, leaf in leaves.items()
        for key, value in optimizer.state.get(leaf, {}).items()
    }


def make_moments(
    optimizer: torch.optim.Optimizer, leaves: Mapping[str, nn.Parameter], names: Iterable[str]
) -> dict[str, Tensor]:
    """Make room in an optimizer for the state that `moments` named; return it, all zeros."""
    for full_name in names:
        name, key = full_name.rsplit("/", 1)
        leaf = leaves[name]
        # AdamW counts the steps of each leaf in a number.
        is_number = key == "step"
        optimizer.state[leaf][key] = (
            torch.zeros((), device=leaf.device) if is_number else torch.zeros_like(leaf)
        )
    return moments(optimizer, leaves)
