"""The MLP of a layer seen neuron-first: one row per neuron, whatever the architecture stores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor

from lse_interp.core.errors import ActivationError, UnsupportedModelError
from lse_interp.models.hooked import HookedModel

__all__ = ["FFN", "Source", "ffn", "ffn_sources", "require_matrix"]


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
