"""Training a model whose blocks are spread over processes (FSDP2), leaf by leaf.

What FSDP2 does by itself: it gathers a block where it computes, and reduces the gradients of
weights that are trained in parts. What is left: gradients of leaves that every process holds whole
are averaged, norms and optimizer steps keep the two kinds apart, and checkpoints hold whole
tensors, so that a run goes on whichever way the model is held.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lse_interp.models.placement.dtensors import assign, whole

__all__ = [
    "average_gradients",
    "by_kind",
    "gathered_state",
    "hand_out",
    "is_sharded",
    "own_state",
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
    """Give back what blocks still hold of each other's parts after a pass without gradients."""
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
def hand_out(values: Mapping[str, Tensor] | None, leaves: Mapping[str, nn.Parameter]) -> None:
    """Give the leaves of all processes the values that the main process has.

    Args:
        values: Whole tensors by name; None in the other processes.
        leaves: What they belong to.
    """
    for name, leaf in leaves.items():
        if not distributed.is_initialized():
            assert values is not None
            leaf.copy_(values[name])
            continue
        if values is None:
            value = torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device)
        else:
            value = values[name].to(leaf.device, leaf.dtype)
        distributed.broadcast(value, src=0)
        assign(leaf.detach(), value)


def gathered_state(
    optimizer: torch.optim.Optimizer, leaves: Mapping[str, nn.Parameter], *, keep: bool
) -> dict[str, Any]:
    """Return an optimizer's state in whole tensors, on the host, by the names of its leaves.

    Every process has to call this. What is returned does not depend on how leaves are held, nor
    on how the optimizer groups them, which `by_kind` does by how they are held.

    Args:
        optimizer: The optimizer; all its groups have the same options.
        leaves: What it steps, by name.
        keep: Whether this process wants the state; otherwise it only lends its parts.
    """
    found, names = optimizer.state_dict(), _names(optimizer, leaves)
    state: dict[str, dict[str, Any]] = {}
    for index, entries in found["state"].items():
        gathered = {name: _gathered(value) for name, value in entries.items()}
        if keep:
            state[names[index]] = gathered
    group = found["param_groups"][0]
    return {"state": state, "options": {key: group[key] for key in group if key != "params"}}


def own_state(
    optimizer: torch.optim.Optimizer, leaves: Mapping[str, nn.Parameter], state: Mapping[str, Any]
) -> dict[str, Any]:
    """Cut what `gathered_state` returned into what this process's optimizer holds.

    Returns:
        As `optimizer.load_state_dict` takes it.
    """
    own = {
        index: {key: _own(value, leaves[name]) for key, value in state["state"][name].items()}
        for index, name in enumerate(_names(optimizer, leaves))
        if name in state["state"]
    }
    groups = optimizer.state_dict()["param_groups"]
    return {"state": own, "param_groups": [{**group, **state["options"]} for group in groups]}


def _names(optimizer: torch.optim.Optimizer, leaves: Mapping[str, nn.Parameter]) -> list[str]:
    """List the leaves in the optimizer's order."""
    names = {leaf: name for name, leaf in leaves.items()}
    return [names[leaf] for group in optimizer.param_groups for leaf in group["params"]]


def _gathered(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value


def _own(value: Any, leaf: nn.Parameter) -> Any:
    if not isinstance(leaf, DTensor) or not isinstance(value, Tensor) or value.ndim == 0:
        return value
    part = torch.empty_like(leaf, dtype=value.dtype)
    assign(part.detach(), value)
    return part.detach()
