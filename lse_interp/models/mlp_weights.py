"""The MLP of a layer seen neuron-first: one row per neuron, whatever the architecture stores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor

from lse_interp.core.errors import ActivationError, MismatchError, UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import projections
from lse_interp.models.placement.dtensors import local_part, whole

__all__ = [
    "FFN",
    "WeightSlice",
    "ffn",
    "read_rows",
    "require_matrix",
    "row_slices",
    "select_rows",
    "weight_slices",
    "write_rows",
]


@dataclass(frozen=True)
class WeightSlice:
    """Which slice of which parameter a view comes from.

    Attributes:
        name: Parameter name, as in `hf.get_parameter(name)`.
        neuron_dim: Axis of the parameter that runs over neurons; None for the bias of down.
        start: Index of neuron 0 along that axis; d_mlp for the up half of a fused projection.
    """

    name: str
    neuron_dim: int | None
    start: int = 0


@dataclass(frozen=True)
class FFN:
    """Views of one MLP, down(act(gate x) * (up x)) or down(act(up x)), one row per neuron.

    Row i of `gate` and `up` reads neuron i from the residual stream, row i of `down` writes it
    back. All tensors share storage with the model and carry no autograd history: writing to them
    changes the model.

    Attributes:
        layer: Block index.
        gate: Gate rows; None for an ungated MLP.
        up: Up rows.
        down: Down columns, transposed.
        gate_bias: Bias of gate, if any.
        up_bias: Bias of up, if any.
        down_bias: Bias of down, if any.
        slices: For each field above that is not None, the parameter behind it.
    """

    layer: int
    gate: Float[Tensor, "neuron d_model"] | None
    up: Float[Tensor, "neuron d_model"]
    down: Float[Tensor, "neuron d_model"]
    gate_bias: Float[Tensor, " neuron"] | None
    up_bias: Float[Tensor, " neuron"] | None
    down_bias: Float[Tensor, " d_model"] | None
    slices: Mapping[str, WeightSlice]

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        return self.gate is not None


def ffn(model: HookedModel, layer: int) -> FFN:
    """View the MLP of one layer neuron-first.

    Args:
        model: The model.
        layer: Block index, 0 at the input.

    Returns:
        Views that share storage with the model's weights.

    Raises:
        ActivationError: The model has no such layer.
        UnsupportedModelError: The weights are not plain floating-point matrices (quantised), or
            are sharded over processes, so that no view shows them whole.
    """
    slices = weight_slices(model, layer)
    views = {field: _view(model, part) for field, part in slices.items()}
    fields: dict[str, Any] = dict.fromkeys(("gate", "gate_bias", "up_bias", "down_bias"))
    return FFN(layer=layer, slices=slices, **(fields | views))


def weight_slices(model: HookedModel, layer: int) -> dict[str, WeightSlice]:
    """Find the parameters behind the MLP of one layer, by field of `FFN`.

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
    """Return the parameter behind each projection of a layer, in the order of `projections`.

    Raises:
        ActivationError: No such layer.
    """
    found = weight_slices(model, layer)
    return tuple(found[name] for name in projections(gated=model.gated))


def require_matrix(weight: Shaped[Tensor, "..."], name: str) -> None:
    """Refuse a weight that is not stored as floating-point numbers.

    Raises:
        UnsupportedModelError: A quantised weight.
    """
    if not weight.is_floating_point():
        raise UnsupportedModelError(
            f"{name} is stored as {weight.dtype}: a quantised weight has no rows to "
            "view. Load the model in bfloat16 or float32."
        )


def _view(model: HookedModel, place: WeightSlice) -> Float[Tensor, "..."]:
    parameter = model.hf.get_parameter(place.name).detach()
    require_matrix(parameter, place.name)
    if isinstance(parameter, DTensor):
        raise UnsupportedModelError(
            f"{place.name} is sharded over processes and has no whole view. Read neurons with "
            "`read_rows`, which gathers them."
        )
    if place.neuron_dim is None:
        return parameter
    rows = parameter.movedim(place.neuron_dim, 0)
    return rows[place.start : place.start + model.d_mlp]


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
    rows = []
    for place in row_slices(model, layer):
        weight = model.hf.get_parameter(place.name).detach()
        require_matrix(weight, place.name)
        rows.append(select_rows(weight, place, neurons))
    return torch.stack(rows)


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
