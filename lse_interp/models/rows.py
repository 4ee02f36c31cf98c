"""The weights of chosen neurons: read and written as rows, whatever the architecture stores.

A neuron owns a row of the gate projection, a row of the up projection and a column of the down
projection; a model without a gate has the last two. Biases are not among them.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributed.tensor import DTensor

from lse_interp.core.artifacts import projections
from lse_interp.core.errors import ActivationError, MismatchError, UnsupportedModelError
from lse_interp.models.ffn import FFN, Source, ffn, ffn_sources
from lse_interp.models.hooked import HookedModel

__all__ = ["local_part", "projections", "read_rows", "row_sources", "write_rows"]


def read_rows(
    model: HookedModel, layer: int, neurons: Int64[Tensor, " _neuron"]
) -> Float[Tensor, "projection _neuron d_model"]:
    """Copy the weights of some neurons of one layer.

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
    views = _views(ffn(model, layer))
    return torch.stack([view[neurons.to(view.device)] for view in views])


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


def local_part(parameter: Tensor) -> tuple[Tensor, int]:
    """Return the part of a parameter this process holds, and where it begins along axis 0.

    A parameter that is not sharded is its own part. Sharding along axis 0, the only kind that
    FSDP2 makes, cuts it into pieces of ceil(size / processes).

    Raises:
        UnsupportedModelError: Sharding along another axis.
    """
    if not isinstance(parameter, DTensor):
        return parameter, 0
    start = 0
    for mesh_dim, placement in enumerate(parameter.placements):
        if placement.is_replicate():
            continue
        if not placement.is_shard(0):
            raise UnsupportedModelError(
                f"Neurons are written into weights sharded along axis 0 (FSDP2); found {placement}."
            )
        n_parts = parameter.device_mesh.size(mesh_dim)
        rank = parameter.device_mesh.get_local_rank(mesh_dim)
        start = min(rank * -(-parameter.shape[0] // n_parts), parameter.shape[0])
    return parameter.to_local(), start


def _require_neurons(model: HookedModel, neurons: Int64[Tensor, " _neuron"]) -> None:
    # Indexing would take -1 for the last row, and d_mlp for the up half of a fused projection.
    if len(neurons) and not (neurons.min() >= 0 and neurons.max() < model.d_mlp):
        raise ActivationError(
            f"neurons must be in 0 to {model.d_mlp - 1}; got {int(neurons.min())} to "
            f"{int(neurons.max())}."
        )


def _views(view: FFN) -> list[Tensor]:
    return [rows for rows in (view.gate, view.up, view.down) if rows is not None]


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
