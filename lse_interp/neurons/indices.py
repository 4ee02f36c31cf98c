"""Indices and masks of neurons: what they must satisfy, and one from the other."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from lse_interp.artifacts.foreign import numbers
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.core.languages import by_code
from lse_interp.models.info import ModelInfo

__all__ = [
    "check_grid",
    "check_layers",
    "cut_indices",
    "hash_indices",
    "indices_to_mask",
    "layers_by_language",
    "mask_to_indices",
]


def cut_indices(
    neurons: Tensor, sizes: Tensor, *, shape: tuple[int, ...], where: str
) -> tuple[Tensor, ...]:
    """Cut the indices of a file into its sets, each as long as `sizes` (of `shape`) says.

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


def check_layers(
    layers: Sequence[Tensor],
    model: ModelInfo,
    *,
    of: str,
    error: type[LseError] = LseError,
) -> None:
    """Refuse neurons that are not listed for every layer, ascending and within the model.

    Args:
        layers: One tensor of indices per layer.
        model: The model they point into.
        of: Whose neurons they are, as in "The neurons of mlt".
        error: What to raise.

    Raises:
        LseError: Another number of layers, or indices out of range, unsorted or repeated.
    """
    if len(layers) != model.n_layers:
        raise error(
            f"{of} must be listed for each of the {model.n_layers} layers of {model.name}; got "
            f"{len(layers)} layers. Use an empty tensor for an empty layer."
        )
    for layer, neurons in enumerate(layers):
        fit = not len(neurons) or (neurons.min() >= 0 and neurons.max() < model.d_mlp)
        if not fit or (neurons.diff() <= 0).any():
            raise error(
                f"{of} in layer {layer} must be indices in [0, {model.d_mlp}) ({model.name}) that "
                f"ascend without repeats; got {neurons.tolist()[:20]}. Pass `tensor.unique()`."
            )


def layers_by_language(
    named: Mapping[str, Any],
    model: ModelInfo,
    *,
    where: str = "The",
    error: type[LseError] = LseError,
) -> dict[str, tuple[Int64[Tensor, " _neuron"], ...]]:
    """Sort the neurons of each language, in any form, into one tensor of indices per layer.

    Args:
        named: Language, in any spelling -> its neurons: a mask [layer neuron]; for each layer a
            list of indices in any order, or a mask; or such lists by layer, where a layer that is
            not named is empty.
        model: The model they point into.
        where: What precedes "neurons of mlt" in errors.
        error: What to raise for neurons that do not fit the model.

    Raises:
        ArtifactError: Neurons in another form.
        LanguageError: An unknown language, or one twice.
        LseError: Neurons that do not fit the model.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for code, layers in by_code(named).items():
        of = f"{where} neurons of {code}"
        if isinstance(layers, Mapping):
            if strange := [layer for layer in layers if layer not in range(model.n_layers)]:
                raise error(f"{of} name layer {strange[0]!r}; {model.name} has {model.n_layers}.")
            layers = [layers.get(layer, []) for layer in range(model.n_layers)]
        if not isinstance(layers, Sequence | Tensor | np.ndarray):
            raise ArtifactError(
                f"{of} must be a list over layers of indices, or a mask [layer neuron]; found "
                f"{type(layers).__name__}."
            )
        found[code] = tuple(
            _indices(neurons, of=f"{of} in layer {layer}", d_mlp=model.d_mlp)
            for layer, neurons in enumerate(layers)
        )
        check_layers(found[code], model, of=of, error=error)
    return found


def _indices(neurons: Any, *, of: str, d_mlp: int) -> Int64[Tensor, " _neuron"]:
    values = numbers(neurons, what=of)
    # As many numbers as neurons, all of them 0 or 1, are no indices.
    if tuple(values.shape) == (d_mlp,) and bool(((values == 0) | (values == 1)).all()):
        return values.nonzero().flatten()
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if values.ndim != 1 or not (whole or not len(values)):
        raise ArtifactError(
            f"{of} must be whole numbers along one axis, or a mask of {d_mlp}; found "
            f"{values.dtype} {list(values.shape)}."
        )
    return values.long().sort().values


def check_grid(
    name: str, values: Tensor | None, shape: tuple[int, ...], *, own: Callable[[], Tensor]
) -> None:
    """Refuse values of another shape or below 0, or unknown (NaN) where `own` marks the neuron."""
    if values is None:
        return
    if tuple(values.shape) != shape:
        raise LseError(f"`{name}` must have shape {shape}; got {tuple(values.shape)}.")
    lowest = float(values.min())
    if math.isnan(lowest):  # `min` propagates NaN, so the grid is searched for NaN only then
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


def hash_indices(layers: Iterable[Int64[Tensor, " _neuron"]]) -> str:
    """Return a hash of the neurons of every layer, to tell one choice from another."""
    found = hashlib.sha256()
    for neurons in layers:
        found.update(f"{len(neurons)} ".encode())
        found.update(neurons.numpy().tobytes())
    return found.hexdigest()[:16]
