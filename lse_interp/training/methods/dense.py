"""Methods that train whole matrices: `ffn` the MLPs with their biases, `full` every weight.

Weights narrower than float32 get float32 masters, as the rows of a subnetwork do.

Source: paper, section 4.3.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lse_interp.artifacts.atomic import write_folder
from lse_interp.artifacts.folder_checksums import write_sums
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.architectures import HFModel
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_from_args
from lse_interp.models.mlp_weights import weight_slices
from lse_interp.models.placement.dtensors import local_part, whole
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.engines.base import frozen, master_dtype
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.methods import METHODS, Look, Method
from lse_interp.training.methods._common import Trainable, kept_folder, tuned

__all__ = ["DenseMasters", "every_weight", "ffn_weights"]

_FOLDER = "model"


class DenseMasters:
    """The engine of whole parameters, through float32 masters if they are narrower.

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
        """Return the masters by parameter name; a wide parameter is its own master."""
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


def every_weight(model: HookedModel) -> dict[str, nn.Parameter]:
    """Return all parameters by name."""
    return dict(model.hf.named_parameters())


def ffn_weights(model: HookedModel) -> dict[str, nn.Parameter]:
    """Return gate, up and down of every layer, with their biases, by name."""
    slices = (weight_slices(model, layer).values() for layer in range(model.n_layers))
    names = dict.fromkeys(part.name for parts in slices for part in parts)
    return {name: model.hf.get_parameter(name) for name in names}


@contextlib.contextmanager
def _train_whole(
    model: HookedModel,
    *,
    neurons: None,
    options: Hyperparameters,
    weights_of: Callable[[HookedModel], dict[str, nn.Parameter]],
) -> Iterator[Trainable]:
    """Make whole parameters ready to train; meanwhile the host keeps a copy of them."""
    weights = weights_of(model)
    if packed := next((n for n, w in weights.items() if not w.is_floating_point()), None):
        raise UnsupportedModelError(
            f"{model.name} is quantised, and packed weights ({packed}) cannot be trained. Use "
            "--method lora, or load weights that are not quantised."
        )
    before = {name: local_part(w.detach())[0].cpu().clone() for name, w in weights.items()}
    engine = DenseMasters(model.hf, weights)
    try:
        yield Trainable(model.hf, engine)
    finally:
        engine.close()
        with torch.no_grad():
            for name, value in before.items():
                local_part(weights[name].detach())[0].copy_(value)


def _keep(model: HookedModel, trainable: Trainable, folder: Path, *, is_main: bool) -> None:
    """Write the whole model; the other processes lend their parts of the weights."""
    weights = _whole_weights(model.hf, keep=is_main)

    def write(path: Path) -> None:
        model.hf.save_pretrained(path, state_dict=weights)
        model.tokenizer.save_pretrained(path)
        model.write_defaults(path)
        write_sums(path)

    if is_main:
        write_folder(folder / _FOLDER, write)


def _load(run: FinetuneRun, args: ModelArgs) -> HookedModel:
    folder = str(kept_folder(run, _FOLDER))
    model = load_from_args(dataclasses.replace(args, model=folder, backend="torch", revision=None))
    # Its weights are new, so only its shape can be compared with the base.
    shape = dataclasses.replace(run.model, fingerprint=None)
    shape.require_same(model.info, what=model.name)
    return tuned(run, model.hf, model, backend=args.backend)


def _whole_weights(hf: HFModel, *, keep: bool) -> dict[str, Tensor]:
    """Return a model's weights, those in parts gathered on the host; none unless `keep`.

    Tied weights stay one tensor.
    """
    weights = {}
    for name, weight in hf.state_dict().items():
        gathered = whole(weight)
        if keep:
            weights[name] = weight if gathered is weight else gathered.cpu()
    return weights


def _master(weight: nn.Parameter) -> nn.Parameter:
    wide = master_dtype(weight.dtype)
    return weight if wide == weight.dtype else nn.Parameter(weight.detach().to(wide))


METHODS.register("ffn")(
    Method(
        name="ffn",
        rank=30,
        looks={"ffn": Look("FFN only", "#09ab5b", 1)},
        prepare=functools.partial(_train_whole, weights_of=ffn_weights),
        keep=_keep,
        load=_load,
        builds_on_base=False,
        lr=1e-5,
    )
)

METHODS.register("full")(
    Method(
        name="full",
        rank=40,
        looks={"full": Look("Full", "#91b6eb", 0)},
        prepare=functools.partial(_train_whole, weights_of=every_weight),
        keep=_keep,
        load=_load,
        builds_on_base=False,
        lr=1e-5,
    )
)
