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
    "Source",
    "ffn",
    "ffn_sources",
    "read_rows",
    "require_matrix",
    "row_sources",
    "select_rows",
    "write_rows",
]


@dataclass(frozen=True)
class Source:
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
        sources: For each field above that is not None, the parameter behind it.
    """

    layer: int
    gate: Float[Tensor, "neuron d_model"] | None
    up: Float[Tensor, "neuron d_model"]
    down: Float[Tensor, "neuron d_model"]
    gate_bias: Float[Tensor, " neuron"] | None
    up_bias: Float[Tensor, " neuron"] | None
    down_bias: Float[Tensor, " d_model"] | None
    sources: Mapping[str, Source]

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
    sources = ffn_sources(model, layer)
    views = {field: _view(model, source) for field, source in sources.items()}
    fields: dict[str, Any] = dict.fromkeys(("gate", "gate_bias", "up_bias", "down_bias"))
    return FFN(layer=layer, sources=sources, **(fields | views))


def ffn_sources(model: HookedModel, layer: int) -> dict[str, Source]:
    """Find the parameters behind the MLP of one layer, by field of `FFN`.

    Raises:
        ActivationError: The model has no such layer.
    """
    if not 0 <= layer < model.n_layers:
        raise ActivationError(f"layer must be in 0 to {model.n_layers - 1}; got {layer}.")
    at = model.layout.blocks[layer]
    sources: dict[str, Source] = {}
    if at.fused:
        sources |= _sources(model, "gate", at.up)
        sources |= _sources(model, "up", at.up, start=model.d_mlp)
    else:
        if at.gate is not None:
            sources |= _sources(model, "gate", at.gate)
        sources |= _sources(model, "up", at.up)
    return sources | _sources(model, "down", at.down)


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


def _sources(
    model: HookedModel, field: str, module_path: str, *, start: int = 0
) -> dict[str, Source]:
    module = model.hf.get_submodule(module_path)
    # transformers' Conv1D (GPT-2) stores [in out]; torch's Linear stores [out in].
    output_dim = 1 if hasattr(module, "nf") else 0
    neuron_dim = 1 - output_dim if field == "down" else output_dim
    found = {field: Source(f"{module_path}.weight", neuron_dim, start)}
    if getattr(module, "bias", None) is not None:
        bias_dim = None if field == "down" else 0
        found[f"{field}_bias"] = Source(f"{module_path}.bias", bias_dim, start)
    return found


def _view(model: HookedModel, source: Source) -> Float[Tensor, "..."]:
    parameter = model.hf.get_parameter(source.name).detach()
    require_matrix(parameter, source.name)
    if isinstance(parameter, DTensor):
        raise UnsupportedModelError(
            f"{source.name} is sharded over processes and has no whole view. Read neurons with "
            "`read_rows`, which gathers them."
        )
    if source.neuron_dim is None:
        return parameter
    rows = parameter.movedim(source.neuron_dim, 0)
    return rows[source.start : source.start + model.d_mlp]


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
    for source in row_sources(model, layer):
        weight = model.hf.get_parameter(source.name).detach()
        require_matrix(weight, source.name)
        rows.append(select_rows(weight, source, neurons))
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
    for source, values in zip(row_sources(model, layer), rows, strict=True):
        _write(model.hf.get_parameter(source.name), source, neurons, values)


def row_sources(model: HookedModel, layer: int) -> tuple[Source, ...]:
    """Return the parameter behind each projection of a layer, in the order of `projections`.

    Raises:
        ActivationError: No such layer.
    """
    sources = ffn_sources(model, layer)
    return tuple(sources[name] for name in projections(gated=model.gated))


def select_rows(
    weight: Float[Tensor, "..."], source: Source, neurons: Int64[Tensor, " _neuron"]
) -> Float[Tensor, "_neuron d_model"]:
    """Copy the rows (or columns) of some neurons out of a weight, or out of its gradient."""
    assert source.neuron_dim is not None
    gathered = whole(weight)
    rows = gathered.index_select(source.neuron_dim, neurons.to(gathered.device) + source.start)
    return rows if source.neuron_dim == 0 else rows.mT


def _require_neurons(model: HookedModel, neurons: Int64[Tensor, " _neuron"]) -> None:
    # Indexing would take -1 for the last row, and d_mlp for the up half of a fused projection.
    if len(neurons) and not (neurons.min() >= 0 and neurons.max() < model.d_mlp):
        raise ActivationError(
            f"neurons must be in 0 to {model.d_mlp - 1}; got {int(neurons.min())} to "
            f"{int(neurons.max())}."
        )


def _write(
    parameter: Tensor,
    source: Source,
    neurons: Int64[Tensor, " _neuron"],
    values: Float[Tensor, "_neuron d_model"],
) -> None:
    part, start = local_part(parameter.detach())
    index = neurons.to(part.device) + source.start
    values = values.to(part)
    if source.neuron_dim == 1:
        part.index_copy_(1, index, values[:, start : start + part.shape[0]].mT)
    elif part.shape[0] == parameter.shape[0]:
        part.index_copy_(0, index, values)
    else:
        here = (index >= start) & (index < start + part.shape[0])
        part[index[here] - start] = values[here]
