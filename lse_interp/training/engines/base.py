"""What every way of training shares: leaves for the optimizer, and the steps around its step.

The optimizer never sees the model's weights. It sees leaves, in float32 at least. Before its step
the engine gives the leaves their gradients; after it, the engine writes their values into the
model. So the model is an ordinary transformers model at every moment, and weight decay, clipping
and momenta touch only the leaves.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lse_interp.artifacts.registry import writer_command
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import read_rows, write_rows
from lse_interp.models.placement.dtensors import whole
from lse_interp.neurons.indices import check_layers
from lse_interp.training.sharded_leaves import by_kind, is_sharded

__all__ = ["Engine", "NeuronRows", "attach", "clip_gradients", "frozen", "master_dtype"]


@runtime_checkable
class Engine(Protocol):
    """One way to train some of a model's weights."""

    module: nn.Module | None
    """Holds the leaves where the forward pass reads them, so that DDP and FSDP2 see them."""

    def leaves(self) -> dict[str, nn.Parameter]:
        """Return what the optimizer trains, by name."""

    def before_step(self) -> None:
        """Give every leaf its gradient; a second call changes nothing."""

    def after_step(self) -> None:
        """Write the values of the leaves into the model."""

    def close(self) -> None:
        """Restore the model: no patches, no hooks, `requires_grad` as before."""


class NeuronRows(nn.Module):
    """The weights of chosen neurons as leaves: one `[projection neuron d_model]` per layer.

    Args:
        model: The model the neurons belong to.
        neurons: One ascending index tensor per layer.

    Raises:
        MismatchError: Neurons for another number of layers, out of range, or not ascending.
        LseError: There is no neuron.
    """

    def __init__(self, model: HookedModel, neurons: Iterable[Int64[Tensor, " _neuron"]]) -> None:
        super().__init__()
        self.neurons = tuple(neurons)
        check_layers(self.neurons, model.info, of="The neurons to train", error=MismatchError)
        if not self.layers:
            raise LseError(
                "There is no neuron to train. Choose a language with neurons, or identify more of "
                f"them (a larger --k of `{writer_command('neuron_sets')}`)."
            )
        # Not registered: the model is no part of this module.
        self._model = (model,)
        self.leaves = nn.ParameterDict()
        for layer in self.layers:
            rows = read_rows(model, layer, self.neurons[layer])
            self.leaves[str(layer)] = nn.Parameter(rows.to(master_dtype(rows.dtype)))

    @property
    def model(self) -> HookedModel:
        """The model the rows belong to."""
        return self._model[0]

    @property
    def layers(self) -> list[int]:
        """The layers that have neurons."""
        return [layer for layer, chosen in enumerate(self.neurons) if len(chosen)]

    def leaf(self, layer: int) -> Float[Tensor, "projection _neuron d_model"]:
        """Return the leaf of a layer that has neurons."""
        return self.leaves[str(layer)]

    def write(self) -> None:
        """Round the leaves to the model's dtype and write them into its weights."""
        for layer in self.layers:
            leaf = whole(self.leaf(layer).detach())
            write_rows(self.model, layer, self.neurons[layer], leaf)


def attach(engine: Engine, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Run an engine around every step of an optimizer over its leaves, in any training loop.

    A loop that clips gradients calls `engine.before_step()` (or `clip_gradients`) first.

    Returns:
        A function that detaches the engine again.
    """
    handles = (
        optimizer.register_step_pre_hook(lambda *_: engine.before_step()),
        optimizer.register_step_post_hook(lambda *_: engine.after_step()),
    )

    def detach() -> None:
        for handle in handles:
            handle.remove()

    return detach


def clip_gradients(engine: Engine, max_norm: float) -> Float[Tensor, ""]:
    """Scale the gradients of all leaves down to a total norm of at most `max_norm`.

    Returns:
        The norm before; `inf` as `max_norm` measures without clipping.
    """
    engine.before_step()
    kinds = by_kind(engine.leaves().values())
    if len(kinds) == 1 and not is_sharded(kinds[0]):
        return nn.utils.clip_grad_norm_(kinds[0], max_norm)
    # Norms are made whole before anything is added to them: torch 2.7 adds to the parts.
    norms = [
        whole(nn.utils.get_total_norm([leaf.grad for leaf in kind if leaf.grad is not None]))
        for kind in kinds
    ]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, max_norm, norm)
    return norm


def master_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that leaves of a weight have: float32, or wider if the weight is.

    >>> master_dtype(torch.bfloat16), master_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def frozen(hf: nn.Module, trained: Mapping[str, nn.Parameter]) -> Callable[[], None]:
    """Freeze every weight but those `trained`; return a function that restores the flags."""
    before = [(weight, weight.requires_grad) for weight in hf.parameters()]
    for weight in hf.parameters():
        weight.requires_grad_(False)
    for weight in trained.values():
        weight.requires_grad_(True)

    def restore() -> None:
        for weight, flag in before:
            weight.requires_grad_(flag)

    return restore
