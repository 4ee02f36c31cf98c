"""Ways to train a share of a model's weights: ours, and those one would write or use otherwise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import projections
from lse_interp.models.mlp_weights import row_slices
from lse_interp.training.engines.base import Engine, NeuronRows, frozen, master_dtype
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.methods.dense import DenseMasters, every_weight, ffn_weights
from lse_interp.training.methods.lora import add_lora

__all__ = ["METHODS", "Method", "Neurons"]

Neurons = list[Tensor]
"""One ascending index tensor per layer."""


@dataclass(frozen=True)
class Method:
    """One way to train."""

    name: str
    make: Callable[[HookedModel, Neurons], Engine]
    chunked: bool = False
    """Whether the loss is taken in chunks."""
    same_rows: bool = False
    """Whether it trains the chosen neurons and nothing else: then gradients can be compared."""
    autocast: bool = False
    """Whether a model narrower than float32 is run under autocast."""


class ClonedWeights:
    """Scatter compact rows into a copy of the dense weight in every forward pass.

    Autograd then forms the gradient of the dense weight and gathers the rows' from it.
    """

    in_graph = True

    def __init__(self, model: HookedModel, neurons: Neurons) -> None:
        self._restore = frozen(model.hf, {})
        self._leaves: dict[str, nn.Parameter] = {}
        self._patched: list[nn.Module] = []
        self._writes: list[Callable[[], None]] = []
        for layer, chosen in enumerate(neurons):
            if not len(chosen):
                continue
            for name, source in zip(projections(gated=True), row_slices(model, layer), strict=True):
                linear = model.hf.get_submodule(source.name.removesuffix(".weight"))
                assert source.neuron_dim is not None
                index = chosen.to(linear.weight.device)
                self._leaves[f"{layer}.{name}"] = self._patch(linear, source.neuron_dim, index)

    def leaves(self) -> dict[str, nn.Parameter]:
        """Return the rows by layer and projection."""
        return self._leaves

    def before_step(self) -> None:
        """Do nothing: autograd has left the gradients where they belong."""

    def after_step(self) -> None:
        """Do nothing: the next forward pass reads the rows."""

    def close(self) -> None:
        """Write the rows into the model and give the modules their own forward back."""
        for write in self._writes:
            write()
        for module in self._patched:
            del module.forward
        self._restore()

    def _patch(self, linear: nn.Linear, axis: int, index: Tensor) -> nn.Parameter:
        dense = linear.weight
        rows = dense.detach().index_select(axis, index)
        # Held as in the model: columns of down stay columns, so that nothing is transposed.
        leaf = nn.Parameter(rows.to(master_dtype(rows.dtype)))

        def forward(x: Tensor) -> Tensor:
            weight = dense.clone().index_copy_(axis, index, leaf.to(dense.dtype))
            return functional.linear(x, weight, linear.bias)

        def write() -> None:
            with torch.no_grad():
                dense.index_copy_(axis, index, leaf.to(dense.dtype))

        linear.forward = forward
        self._patched.append(linear)
        self._writes.append(write)
        return leaf


class Adapters:
    """Train what peft has added to a model."""

    in_graph = True

    def __init__(self, peft: Any, restore: Callable[[], None]) -> None:
        self._peft = peft
        self._restore = restore

    def leaves(self) -> dict[str, nn.Parameter]:
        """Return the adapters by name."""
        return {name: w for name, w in self._peft.named_parameters() if w.requires_grad}

    def before_step(self) -> None:
        """Do nothing."""

    def after_step(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Take the adapters off again."""
        self._peft.unload()
        self._restore()


def lora(model: HookedModel, neurons: Neurons) -> Engine:
    """Add LoRA to gate and up: rank 62, alpha 32."""
    restore = frozen(model.hf, {})
    peft, _ = add_lora(model, rank=62, alpha=32, down=False, seed=0)
    return Adapters(peft, restore)


def shira(model: HookedModel, neurons: Neurons) -> Engine:
    """Add SHiRA: as many entries as the neurons have, anywhere in gate, up and down.

    peft takes a multiple of d_model + d_mlp per matrix; the nearest one is taken.
    """
    from peft import ShiraConfig, get_peft_model

    restore = frozen(model.hf, {})
    wanted = sum(map(len, neurons)) / model.n_layers * model.d_model
    config = ShiraConfig(
        r=max(1, round(wanted / (model.d_model + model.d_mlp))),
        target_modules=["gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    config.mask_fn = _random_mask
    # Said outright, or torch warns that it leaves the checks out.
    torch.sparse.check_sparse_tensor_invariants.disable()
    return Adapters(get_peft_model(model.hf, config), restore)


def dense(which: str) -> Callable[[HookedModel, Neurons], Engine]:
    """Train whole matrices: `full` or `ffn`."""
    weights_of = {"ffn": ffn_weights, "full": every_weight}[which]
    return lambda model, neurons: DenseMasters(model.hf, weights_of(model))


def _compact(model: HookedModel, neurons: Neurons) -> Engine:
    return CompactRows(NeuronRows(model, neurons))


def _masked(model: HookedModel, neurons: Neurons) -> Engine:
    return MaskedGradients(NeuronRows(model, neurons))


METHODS: tuple[Method, ...] = (
    Method("clone and scatter", ClonedWeights, same_rows=True),
    Method("compact", _compact, same_rows=True),
    Method("compact, chunked loss", _compact, chunked=True, same_rows=True),
    Method("masked", _masked, same_rows=True),
    Method("PEFT LoRA, r = 62", lora, autocast=True),
    Method("PEFT SHiRA", shira, autocast=True),
    Method("FFN only", dense("ffn")),
    Method("full", dense("full")),
)
"""The first is what the others are compared with."""


def _random_mask(base_layer: nn.Linear, r: int, **_: Any) -> Tensor:
    # On the weight's device: peft's own permutes on the CPU, which takes minutes for a large model.
    shape = base_layer.weight.shape
    mask = torch.zeros(math.prod(shape), dtype=torch.bool, device=base_layer.weight.device)
    places = torch.randperm(math.prod(shape), device=mask.device)[: r * sum(shape)]
    mask[places] = True
    return mask.view(shape)
