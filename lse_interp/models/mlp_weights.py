"""The MLP of a layer seen neuron-first: one row per neuron, whatever the architecture stores."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributed.tensor import DTensor

from lse_interp.core.errors import ActivationError, MismatchError, UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import projections
from lse_interp.models.placement.dtensors import local_part, whole

__all__ = [
    "WeightSlice",
    "read_rows",
    "row_slices",
    "select_rows",
    "weight_slices",
    "weight_views",
    "write_rows",
]


@dataclass(frozen=True)
class WeightSlice:
    """Which slice of which parameter holds a projection, or its bias.

    Attributes:
        name: Parameter name, as in `hf.get_parameter(name)`.
        neuron_dim: Axis of the parameter that runs over neurons; None for the bias of down.
        start: Index of neuron 0 along that axis; d_mlp for the up half of a fused projection.
    """

    name: str
    neuron_dim: int | None
    start: int = 0


def weight_slices(model: HookedModel, layer: int) -> dict[str, WeightSlice]:
    """Find the parameters of the MLP of one layer, under the names of `weight_views`.

    Raises:
        ActivationError: The model has no such layer.
    """
    if not 0 <= layer < model.n_layers:
        raise ActivationError(f"layer must be in 0 to {model.n_layers - 1}; got {layer}.")
    at = model.layout.blocks[layer]
    found: dict[str, WeightSlice] = {}
    for field, path in at.projections.items():
        start = model.layout.start(field, layer=layer)
        # gate and up write the neurons, down reads them.
        neuron_dim = int(at.transposed) if field != "down" else 1 - int(at.transposed)
        found[field] = WeightSlice(f"{path}.weight", neuron_dim, start)
        if getattr(model.hf.get_submodule(path), "bias", None) is not None:
            bias_dim = None if field == "down" else 0
            found[f"{field}_bias"] = WeightSlice(f"{path}.bias", bias_dim, start)
    return found


def row_slices(model: HookedModel, layer: int) -> tuple[WeightSlice, ...]:
    """Return the parameter of each projection of a layer, in the order of `projections`.

    Raises:
        ActivationError: No such layer.
    """
    found = weight_slices(model, layer)
    return tuple(found[name] for name in projections(gated=model.gated))


def weight_views(model: HookedModel, layer: int) -> dict[str, Float[Tensor, "..."]]:
    """View the MLP of one layer, down(act(gate x) * (up x)) or down(act(up x)), one row a neuron.

    Row i of `gate` and `up` reads neuron i from the residual stream, row i of `down` writes it
    back. The tensors share storage with the model and carry no autograd history: writing to them
    changes the model.

    Args:
        model: The model.
        layer: Block index, 0 at the input.

    Returns:
        `gate` (of a gated MLP), `up` and `down` [neuron d_model], and where there are biases
        `gate_bias`, `up_bias` [neuron] and `down_bias` [d_model].

    Raises:
        ActivationError: The model has no such layer.
        UnsupportedModelError: The weights are not plain floating-point matrices (quantised), or
            are sharded over processes, so that no view shows them whole.
    """
    return {field: _view(model, place) for field, place in weight_slices(model, layer).items()}


def _view(model: HookedModel, place: WeightSlice) -> Float[Tensor, "..."]:
    parameter = _matrix(model, place)
    if isinstance(parameter, DTensor):
        raise UnsupportedModelError(
            f"{place.name} is sharded over processes and has no whole view. Read neurons with "
            "`read_rows`, which gathers them."
        )
    if place.neuron_dim is None:
        return parameter
    rows = parameter.movedim(place.neuron_dim, 0)
    return rows[place.start : place.start + model.d_mlp]


def _matrix(model: HookedModel, place: WeightSlice) -> Float[Tensor, "..."]:
    weight = model.hf.get_parameter(place.name).detach()
    if not weight.is_floating_point():
        raise UnsupportedModelError(
            f"{place.name} is stored as {weight.dtype}: a quantised weight has no rows to "
            "view. Load the model in bfloat16 or float32."
        )
    return weight


def read_rows(
    model: HookedModel, layer: int, neurons: Int64[Tensor, " _neuron"]
) -> Float[Tensor, "projection _neuron d_model"]:
    """Copy the weights of some neurons of one layer.

    Weights that FSDP2 has sharded are gathered one by one: every process has to ask for them.

    Args:
        model: The model.
        layer: Block index.
        neurons: Indices in [0, d_mlp).

    Returns:
        Gate rows, up rows and down columns (transposed), in the model's dtype, on its device.

    Raises:
        ActivationError: No such layer or neuron.
        UnsupportedModelError: Quantised weights.
    """
    _require_neurons(model, neurons)
    places = row_slices(model, layer)
    return torch.stack([select_rows(_matrix(model, place), place, neurons) for place in places])


@torch.no_grad()
def write_rows(
    model: HookedModel,
    layer: int,
    neurons: Int64[Tensor, " _neuron"],
    rows: Float[Tensor, "projection _neuron d_model"],
) -> None:
    """Overwrite the weights of some neurons of one layer, and nothing else.

    Values are rounded to the dtype of the weights. Weights that FSDP2 has sharded are written
    where they are: each process writes the part it holds.

    Raises:
        MismatchError: `rows` of another shape.
        ActivationError: No such layer or neuron.
    """
    _require_neurons(model, neurons)
    expected = (len(projections(gated=model.gated)), len(neurons), model.d_model)
    if tuple(rows.shape) != expected:
        raise MismatchError(
            f"`rows` should be [projection neuron d_model] = {list(expected)} for {model.name}; "
            f"got {list(rows.shape)}."
        )
    for place, values in zip(row_slices(model, layer), rows, strict=True):
        _write(model.hf.get_parameter(place.name), place, neurons, values)


def select_rows(
    weight: Float[Tensor, "..."], place: WeightSlice, neurons: Int64[Tensor, " _neuron"]
) -> Float[Tensor, "_neuron d_model"]:
    """Copy the rows (or columns) of some neurons out of a weight, or out of its gradient."""
    assert place.neuron_dim is not None
    gathered = whole(weight)
    rows = gathered.index_select(place.neuron_dim, neurons.to(gathered.device) + place.start)
    return rows if place.neuron_dim == 0 else rows.mT


def _require_neurons(model: HookedModel, neurons: Int64[Tensor, " _neuron"]) -> None:
    # Indexing would take -1 for the last row, and d_mlp for the up half of a fused projection.
    if len(neurons) and not (neurons.min() >= 0 and neurons.max() < model.d_mlp):
        raise ActivationError(
            f"neurons must be in 0 to {model.d_mlp - 1}; got {int(neurons.min())} to "
            f"{int(neurons.max())}."
        )


def _write(
    parameter: Tensor,
    place: WeightSlice,
    neurons: Int64[Tensor, " _neuron"],
    values: Float[Tensor, "_neuron d_model"],
) -> None:
    part, start = local_part(parameter.detach())
    index = neurons.to(part.device) + place.start
    values = values.to(part)
    if place.neuron_dim == 1:
        part.index_copy_(1, index, values[:, start : start + part.shape[0]].mT)
    elif part.shape[0] == parameter.shape[0]:
        part.index_copy_(0, index, values)
    else:
        here = (index >= start) & (index < start + part.shape[0])
        part[index[here] - start] = values[here]
