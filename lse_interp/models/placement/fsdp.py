"""A model spread over processes (FSDP2): loaded once, by the main process, and handed out.

Each transformer block is one unit: a process keeps 1/n of its weights, and gathers the rest while
the block computes. Embeddings, the last norm and the head stay whole on every process.

The main process loads the model into its host memory and broadcasts it block by block, so that no
process needs more than its own part and one block on its device, and no other process reads files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lse_interp.core.errors import MismatchError
from lse_interp.models.architectures import HFModel
from lse_interp.models.hooked import HookedModel

__all__ = ["load_sharded", "shard_blocks"]

_BROADCAST_BYTES = 1 << 28
_MAIN = 0


def load_sharded(
    load: Callable[[], HookedModel],
    *,
    device: torch.device,
    replicas: int = 1,
    reshard_after_forward: bool = True,
) -> HookedModel:
    """Load a model in the main process and spread it over all of them.

    Every process calls this, after joining the process group. The model can be trained once.

    Args:
        load: Loads the model to the host; called in the main process alone.
        device: Where this process computes.
        replicas: See `shard_blocks`.
        reshard_after_forward: See `shard_blocks`.
    """
    model = load() if distributed.get_rank() == _MAIN else None
    parts = [None if model is None else _Skeleton.of(model)]
    distributed.broadcast_object_list(parts, src=_MAIN)
    if model is None:
        assert parts[0] is not None
        model = parts[0].build()
    shard_blocks(
        model, device=device, replicas=replicas, reshard_after_forward=reshard_after_forward
    )
    return model


def shard_blocks(
    model: HookedModel,
    *,
    device: torch.device,
    replicas: int = 1,
    reshard_after_forward: bool = True,
) -> None:
    """Give all processes the main process's weights, the blocks in parts.

    Args:
        model: The model, in place; in other processes than the main one its weights may be `meta`.
        device: Where this process computes.
        replicas: In how many groups the processes stand, each with a model of its own to share:
            one per machine, where gathering over the network would be slow.
        reshard_after_forward: Whether a block gives its gathered weights back between the forward
            and the backward pass, rather than holding them.
    """
    world = distributed.get_world_size()
    shape = {"replica": replicas, "part": world // replicas} if replicas > 1 else {"part": world}
    mesh = init_device_mesh(device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))
    # Gradients of narrow weights are summed in float32.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.promote_types(model.dtype, torch.float32))
    inside: set[nn.Module] = set()
    for at in model.layout.blocks:
        block = model.hf.get_submodule(at.block)
        _hand_out(block.modules(), device=device)
        inside.update(block.modules())
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=policy)
    _hand_out((m for m in model.hf.modules() if m not in inside), device=device)


@dataclass(frozen=True)
class _Skeleton:
    """What another process needs to build the same model without its weights."""

    hf_type: type[nn.Module]
    config: Any
    wrapping: dict[str, Any]
    dtypes: dict[str, torch.dtype]

    @classmethod
    def of(cls, model: HookedModel) -> "_Skeleton":
        hf = model.hf
        return cls(type(hf), hf.config, model.wrapping, _dtypes(hf))

    def build(self) -> HookedModel:
        """Build the model, its weights `meta`."""
        from accelerate import init_empty_weights

        with init_empty_weights(include_buffers=False):
            hf: HFModel = self.hf_type(self.config)
        hf.tie_weights()
        for name, tensor in _tensors(hf):
            if name in self.dtypes:
                tensor.data = tensor.data.to(self.dtypes[name])
        if differing := sorted(_dtypes(hf).keys() ^ self.dtypes.keys()):
            raise MismatchError(
                f"This process builds another {self.hf_type.__name__} than the main process: "
                f"{differing[0]} is in one of them alone. Install the same version of "
                "transformers on every machine."
            )
        return HookedModel(hf.eval(), **self.wrapping)


def _dtypes(hf: HFModel) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in _tensors(hf)}


def _tensors(hf: HFModel) -> list[tuple[str, Tensor]]:
    return [*hf.named_parameters(), *hf.named_buffers()]


def _hand_out(modules: Iterable[nn.Module], *, device: torch.device) -> None:
    """Bring the weights and buffers of some modules to the device, as the main process has them."""
    brought: dict[int, nn.Parameter] = {}
    for module in modules:
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) not in brought:
                brought[id(weight)] = _brought(weight, device=device)
                _broadcast(brought[id(weight)].data)
            # Tied weights stay one weight.
            module._parameters[name] = brought[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                here = buffer.to(device).contiguous()
                module._buffers[name] = here
                _broadcast(here)


def _brought(weight: nn.Parameter, *, device: torch.device) -> nn.Parameter:
    if weight.is_meta:
        empty = torch.empty(weight.shape, dtype=weight.dtype, device=device)
        return nn.Parameter(empty, requires_grad=weight.requires_grad)
    # A copy even on the same device: the file behind the weights is let go.
    weight.data = weight.data.to(device, copy=True).contiguous()
    return weight


def _broadcast(tensor: Shaped[Tensor, "..."]) -> None:
    # As bytes, which every backend sends, whatever the dtype.
    for part in tensor.view(-1).view(torch.uint8).split(_BROADCAST_BYTES):
        distributed.broadcast(part, src=_MAIN)
