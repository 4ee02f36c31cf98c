"""What neuron sets must satisfy: indices that fit the model, values where there are neurons."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo

__all__ = ["check_grid", "check_layers", "cut_indices", "indices_to_mask", "mask_to_indices"]


def cut_indices(
    neurons: Tensor, sizes: Tensor, *, shape: tuple[int, ...], where: str
) -> tuple[Tensor, ...]:
    """Cut the indices of a file into its sets: `sizes` of `shape` says how many each has.

    Raises:
        ArtifactError: The two do not fit each other.
    """
    whole = {neurons.dtype, sizes.dtype} == {torch.int64} and neurons.ndim == 1
    if not whole or tuple(sizes.shape) != shape:
        raise ArtifactError(
            f"{where} should hold int64 indices along one axis, and the sizes of "
            f"{list(shape)} sets; found {neurons.dtype} {list(neurons.shape)} and {sizes.dtype} "
            f"{list(sizes.shape)}. Make it again."
        )
    if bool((sizes < 0).any()) or int(sizes.sum()) != len(neurons):
        raise ArtifactError(
            f"{where} holds {len(neurons)} neuron indices; its sets should have "
            f"{int(sizes.sum())}. Make it again."
        )
    return neurons.split(sizes.flatten().tolist())


def check_layers(language: str, layers: Sequence[Tensor], model: ModelInfo) -> None:
    """Refuse neurons of a language that are not ascending indices for every layer of the model."""
    if len(layers) != model.n_layers:
        raise LseError(
            f"The neurons of {language} must be listed for each of the {model.n_layers} layers of "
            f"{model.name}; got {len(layers)} layers. Use an empty tensor for an empty layer."
        )
    for layer, neurons in enumerate(layers):
        if len(neurons) and (neurons.min() < 0 or neurons.max() >= model.d_mlp):
            raise LseError(
                f"Neuron indices must be in [0, {model.d_mlp}); {language} has "
                f"{int(neurons.min())} to {int(neurons.max())} in layer {layer}."
            )
        if (neurons.diff() <= 0).any():
            raise LseError(
                f"Neuron indices must ascend without repeats; those of {language} in layer "
                f"{layer} do not. Pass `tensor.unique()`."
            )


def check_grid(
    name: str, values: Tensor | None, shape: tuple[int, ...], *, own: Callable[[], Tensor]
) -> None:
    """Refuse values of another shape or below 0, or unknown (NaN) where `own` marks the neuron."""
    if values is None:
        return
    if tuple(values.shape) != shape:
        raise LseError(f"`{name}` must have shape {shape}; got {tuple(values.shape)}.")
    lowest = float(values.min())
    if math.isnan(lowest):  # `min` propagates NaN; only then is the whole grid looked at
        unknown = values.isnan()
        if (unknown & own()).any():
            raise LseError(
                f"`{name}` must hold numbers for the neurons of the sets; found NaN. Only other "
                "neurons may be unknown."
            )
        lowest = float(values[~unknown].min()) if not unknown.all() else 0.0
    if lowest < 0:
        raise LseError(f"`{name}` must hold numbers of at least 0; found {lowest}.")


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
