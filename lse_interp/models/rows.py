"""The weights of chosen neurons: read and written as rows, whatever the architecture stores.

A neuron owns a row of the gate projection, a row of the up projection and a column of the down
projection; a model without a gate has the last two. Biases are not among them.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lse_interp.core.artifacts import projections
from lse_interp.core.errors import ActivationError, MismatchError
from lse_interp.models.dtensors import local_part, whole
from lse_interp.models.ffn import Source, ffn_sources, require_matrix
from lse_interp.models.hooked import HookedModel

__all__ = ["projections", "read_rows", "row_sources", "select_rows", "write_rows"]


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
