"""The engine `masked`: dense gradients, masked by parameter hooks. Simple, for any model.

Every weight matrix with chosen neurons gets its full gradient; a hook on the parameter sets the
entries of all other neurons to zero as soon as it is computed. So DDP, FSDP2 and norms see only the
chosen entries. Before the optimizer's step these move to the leaves, and the dense gradient is
freed. This is the reference that `compact` is tested against; it needs memory for the dense
gradients.

Source: paper, section 3.2.
"""

import functools

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lse_interp.models.mlp_weights import row_slices, select_rows
from lse_interp.models.placement.dtensors import local_part
from lse_interp.training.engines.base import NeuronRows, frozen

__all__ = ["MaskedGradients"]


class MaskedGradients:
    """Train the rows of chosen neurons through masked dense gradients.

    Shard a model (FSDP2) before making the engine.

    Args:
        rows: The leaves.
    """

    module: nn.Module | None = None

    def __init__(self, rows: NeuronRows) -> None:
        self.rows = rows
        chosen = _chosen(rows)
        weights = {name: rows.model.hf.get_parameter(name) for name in chosen}
        self._restore = frozen(rows.model.hf, weights)
        self._hooks = [
            weight.register_post_accumulate_grad_hook(functools.partial(_mask, chosen=chosen[name]))
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
            places = row_slices(model, layer)
            weights = [model.hf.get_parameter(place.name) for place in places]
            if all(weight.grad is None for weight in weights):
                continue
            leaf = self.rows.leaf(layer)
            leaf.grad = torch.stack(
                [
                    select_rows(weight.grad, place, self.rows.neurons[layer]).to(leaf)
                    for weight, place in zip(weights, places, strict=True)
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


def _chosen(rows: NeuronRows) -> dict[str, tuple[int, Bool[Tensor, " _index"]]]:
    """Return, for each trained weight, its neuron axis, and which indices along it are trained."""
    found: dict[str, tuple[int, Tensor]] = {}
    for layer in rows.layers:
        for place in row_slices(rows.model, layer):
            axis = place.neuron_dim
            assert axis is not None
            size = rows.model.hf.get_parameter(place.name).shape[axis]
            _, marked = found.setdefault(place.name, (axis, torch.zeros(size, dtype=torch.bool)))
            marked[rows.neurons[layer] + place.start] = True
    return found


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
