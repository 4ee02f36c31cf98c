"""The engine `hooks`: dense gradients, masked by parameter hooks. Simple, for any model.

Every weight matrix with chosen neurons gets its full gradient; a hook on the parameter sets the
entries of all other neurons to zero as soon as it is there, so that whatever reduces or reads
gradients (DDP, FSDP2, a norm) sees the chosen ones alone. Before the optimizer's step these move
to the leaves, and the dense gradient is freed. This is the reference that `compact` is tested
against; it needs memory for the dense gradients.

Source: paper, section 3.2.
"""

import functools

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lse_interp.models.mlp_weights import WeightSlice, row_slices, select_rows
from lse_interp.models.placement.dtensors import local_part
from lse_interp.training.engines.base import NeuronRows, frozen

__all__ = ["MaskedGradients"]


class MaskedGradients:
    """Train the rows of chosen neurons through masked dense gradients.

    Where the model is sharded (FSDP2), make the engine after that.

    Args:
        rows: The leaves.
    """

    module: nn.Module | None = None

    def __init__(self, rows: NeuronRows) -> None:
        self.rows = rows
        model = rows.model
        weights = _trained_weights(rows)
        self._restore = frozen(model.hf, weights)
        self._hooks = [
            weight.register_post_accumulate_grad_hook(
                functools.partial(_mask, chosen=_chosen(rows, name))
            )
            for name, weight in weights.items()
        ]

    def leaves(self) -> dict[str, nn.Parameter]:
        """Return the rows by layer."""
        return dict(self.rows.leaves.items())

    @torch.no_grad()
    def before_step(self) -> None:
        """Move the gradients of the chosen neurons to the leaves; free the dense ones."""
        model = self.rows.model
        for layer in self.rows.layers:
            sources = row_slices(model, layer)
            weights = [model.hf.get_parameter(source.name) for source in sources]
            if all(weight.grad is None for weight in weights):
                continue
            leaf = self.rows.leaf(layer)
            leaf.grad = torch.stack(
                [
                    select_rows(weight.grad, source, self.rows.neurons[layer]).to(leaf)
                    for weight, source in zip(weights, sources, strict=True)
                ]
            )
            for weight in weights:
                weight.grad = None

    def after_step(self) -> None:
        """Write the rows into the model; forget their gradients."""
        self.rows.write()
        for leaf in self.rows.leaves.values():
            leaf.grad = None

    def close(self) -> None:
        """Remove the hooks and restore `requires_grad`."""
        for hook in self._hooks:
            hook.remove()
        self._restore()


def _trained_weights(rows: NeuronRows) -> dict[str, nn.Parameter]:
    names = [source.name for layer in rows.layers for source in row_slices(rows.model, layer)]
    return {name: rows.model.hf.get_parameter(name) for name in dict.fromkeys(names)}


def _chosen(rows: NeuronRows, name: str) -> tuple[int, Bool[Tensor, " _index"]]:
    """Return the neuron axis of a weight, and which indices along it are trained."""
    sources = [
        (layer, source)
        for layer in rows.layers
        for source in row_slices(rows.model, layer)
        if source.name == name
    ]
    axis = _axis(sources[0][1])
    size = rows.model.hf.get_parameter(name).shape[axis]
    marked = torch.zeros(size, dtype=torch.bool)
    for layer, source in sources:
        marked[rows.neurons[layer] + source.start] = True
    return axis, marked


@torch.no_grad()
def _mask(weight: Tensor, *, chosen: tuple[int, Bool[Tensor, " _index"]]) -> None:
    axis, marked = chosen
    assert weight.grad is not None
    gradient, start = local_part(weight.grad)
    if axis == 0:
        marked = marked[start : start + gradient.shape[0]]
    # Filled, not multiplied: an infinite gradient of a frozen entry must not become NaN.
    others = ~marked.to(gradient.device)
    gradient.masked_fill_(others.unsqueeze(1 - axis), 0.0)


def _axis(source: WeightSlice) -> int:
    assert source.neuron_dim is not None
    return source.neuron_dim
