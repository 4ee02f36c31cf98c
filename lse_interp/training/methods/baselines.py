"""What the subnetwork is compared with: whole matrices or low-rank updates, trained.

| method | trained                                                        |
|--------|----------------------------------------------------------------|
| `full` | every weight                                                   |
| `ffn`  | gate, up and down of every layer, with their biases            |
| `lora` | low-rank updates of gate and up (of down too with `authors`)   |

Weights narrower than float32 get float32 masters, as the rows of a subnetwork do.

Source: paper, section 4.3.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lse_interp.models import HookedModel
from lse_interp.models.architectures import HFModel
from lse_interp.models.mlp_weights import weight_slices
from lse_interp.models.placement.dtensors import stand_ins
from lse_interp.training.engines.base import frozen, master_dtype

__all__ = ["DenseMasters", "add_lora", "trained_weights"]


class DenseMasters:
    """Train whole parameters, through float32 masters where they are narrower.

    Args:
        hf: The model the parameters are in.
        weights: The parameters to train, by name.
    """

    module: nn.Module | None = None

    def __init__(self, hf: HFModel, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = dict(weights)
        self._restore = frozen(hf, self._weights)
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}

    def leaves(self) -> dict[str, nn.Parameter]:
        """Return the masters by parameter name; a wide parameter is its own."""
        return self._masters

    @torch.no_grad()
    def before_step(self) -> None:
        """Move the gradients to the masters."""
        for weight, master in self._pairs():
            if weight.grad is not None:
                master.grad = weight.grad.to(master.dtype)
                weight.grad = None

    @torch.no_grad()
    def after_step(self) -> None:
        """Round the masters into the model; forget their gradients."""
        for weight, master in self._pairs():
            weight.copy_(master)
            master.grad = None

    def close(self) -> None:
        """Restore `requires_grad`."""
        self._restore()

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        pairs = [(weight, self._masters[name]) for name, weight in self._weights.items()]
        return [(weight, master) for weight, master in pairs if master is not weight]


def trained_weights(model: HookedModel, method: str) -> dict[str, nn.Parameter]:
    """Return the parameters that `full` or `ffn` trains, by name."""
    if method == "full":
        return dict(model.hf.named_parameters())
    names = [
        source.name
        for layer in range(model.n_layers)
        for source in weight_slices(model, layer).values()
    ]
    return {name: model.hf.get_parameter(name) for name in dict.fromkeys(names)}


def add_lora(
    model: HookedModel, *, rank: int, alpha: float, down: bool, seed: int
) -> tuple[Any, dict[str, nn.Parameter]]:
    """Put LoRA adapters on gate and up projections (up alone where there is no gate).

    The base weights are shared, not copied; `.unload()` of the result gives the model back.

    Args:
        model: The model.
        rank: Rank of each update.
        alpha: Updates are scaled by alpha / rank.
        down: Whether the down projection gets an adapter too.
        seed: Of the adapters' first values.

    Returns:
        The peft model, and its trainable parameters by name.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by r, whole or not
        lora_dropout=0.0,
        target_modules=_adapted(model, down=down),
        fan_in_fan_out=model.layout.transposed,
        task_type="CAUSAL_LM",
    )
    # From sharded weights, peft would take the shape of this process's part.
    with torch.random.fork_rng(), warnings.catch_warnings(), stand_ins(model.hf):
        # peft asks transformers whether it checkpoints by a name that is going away.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        torch.manual_seed(seed)
        peft = get_peft_model(model.hf, config)
    return peft, {name: w for name, w in peft.named_parameters() if w.requires_grad}


def _adapted(model: HookedModel, *, down: bool) -> list[str]:
    """Name the linear maps that get an adapter, one by one."""
    names = [
        path
        for at in model.layout.blocks
        for projection, path in at.projections.items()
        if down or projection != "down"
    ]
    return list(dict.fromkeys(names))


def _master(weight: nn.Parameter) -> nn.Parameter:
    wide = master_dtype(weight.dtype)
    return weight if wide == weight.dtype else nn.Parameter(weight.detach().to(wide))
