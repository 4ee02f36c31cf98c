"""Method by method: what is trained, by which engine, and how the model is left plain again."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lse_interp.artifacts.atomic import write_folder
from lse_interp.artifacts.folder_checksums import write_sums
from lse_interp.core.errors import LseError
from lse_interp.models import HookedModel
from lse_interp.models.architectures import HFModel
from lse_interp.models.mlp_weights import read_rows, write_rows
from lse_interp.models.placement.dtensors import local_part, whole
from lse_interp.neurons.sets import NeuronSets
from lse_interp.training.engines.base import Engine, NeuronRows
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.hyperparameters import DENSE_METHODS, NEURON_METHODS, Hyperparameters
from lse_interp.training.methods.baselines import DenseMasters, add_lora, trained_weights

__all__ = ["Prepared", "choose_neurons", "prepared"]

_ENGINES: dict[str, Callable[[NeuronRows], Engine]] = {
    "compact": CompactRows,
    "hooks": MaskedGradients,
}


_Rows = tuple[Float[Tensor, "projection _neuron d_model"], ...]


@dataclass(frozen=True)
class Prepared:
    """A model ready to train."""

    model: HookedModel
    method: str
    hf: HFModel
    """The transformers model, or the peft model around it."""
    engine: Engine
    neurons: tuple[Int64[Tensor, " _neuron"], ...] | None
    """The trained neurons per layer; None for a method that chooses none."""
    base: _Rows | None
    """Their weights before training, on the host."""

    @property
    def n_trainable(self) -> int:
        """Number of trained weights."""
        return sum(leaf.numel() for leaf in self.engine.leaves().values())

    def rows(self) -> _Rows | None:
        """Copy the weights that the trained neurons have now to the host."""
        return _rows(self.model, self.neurons)

    def keep(self, folder: Path, *, is_main: bool = True) -> None:
        """Write what is not rows: `adapter/` of LoRA, `model/` of the dense methods.

        Args:
            folder: Where to.
            is_main: Whether this process writes; the others lend their parts of the weights.
        """
        if self.method == "lora" and is_main:
            for adapter in self.hf.peft_config.values():
                adapter.base_model_name_or_path = self.model.name
            write_folder(folder / "adapter", self._save_adapter)
        elif self.method in DENSE_METHODS:
            weights = _whole_weights(self.model.hf, keep=is_main)
            if is_main:
                write_folder(folder / "model", functools.partial(self._save_model, weights=weights))

    def _save_adapter(self, folder: Path) -> None:
        # Left to itself, peft asks the hub whether the vocabulary grew; it never does here.
        self.hf.save_pretrained(folder, save_embedding_layers=False)
        write_sums(folder)

    def _save_model(self, folder: Path, *, weights: dict[str, Tensor]) -> None:
        self.model.hf.save_pretrained(folder, state_dict=weights)
        self.model.tokenizer.save_pretrained(folder)
        write_sums(folder)


def choose_neurons(
    neurons: NeuronSets | None,
    *,
    language: str,
    method: str,
    match: Literal["size", "layer", "activity"],
    seed: int,
) -> tuple[Int64[Tensor, " _neuron"], ...] | None:
    """Return the neurons that a method trains, per layer; None if it chooses none.

    Args:
        neurons: Sets with the language among them; may be None for `ffn`, `full` and `lora`.
        language: The language to train.
        method: `target` or `random`, or one that chooses none.
        match: What `random` matches; see `NeuronSets.random_like`.
        seed: Of the random draw.

    Raises:
        LseError: No neuron sets, or none for this language.
        LanguageError: The sets lack the language.

    Source: paper, sections 3.2 and 4.3 (iii).
    """
    if method not in NEURON_METHODS:
        return None
    if neurons is None:
        raise LseError(f"Method {method} needs neurons; give the sets of lse_interp.lape.")
    if not neurons.size(language):
        raise LseError(
            f"The set of {language} is empty, so there is nothing to train. Identify more neurons "
            "(a larger --k of lse_interp.lape), or choose another language: "
            f"{', '.join(code for code in neurons if neurons.size(code))}."
        )
    if method == "target":
        return neurons[language]
    return neurons.select(language).random_like(seed=seed, match=match)[language]


@contextlib.contextmanager
def prepared(
    model: HookedModel,
    *,
    method: str,
    neurons: tuple[Int64[Tensor, " _neuron"], ...] | None,
    options: Hyperparameters,
) -> Iterator[Prepared]:
    """Make a model ready to train; afterwards it is as it was, to the bit.

    For `ffn` and `full` a copy of what they change waits on the host meanwhile.

    Args:
        model: The model.
        method: One of `options.METHODS`.
        neurons: What `choose_neurons` returned.
        options: Engine, LoRA rank and scale, seed.
    """
    base = _rows(model, neurons)
    dense = trained_weights(model, method) if method in DENSE_METHODS else {}
    before = {n: local_part(weight.detach())[0].cpu().clone() for n, weight in dense.items()}
    was_training = model.hf.training
    # peft freezes the model before its engine is made.
    flags = [(weight, weight.requires_grad) for weight in model.hf.parameters()]
    hf, engine = _engine(model, method=method, neurons=neurons, options=options)
    try:
        yield Prepared(model, method, hf, engine, neurons, base)
    finally:
        engine.close()
        model.hf.train(was_training)
        if method == "lora":
            hf.unload()
        for weight, flag in flags:
            weight.requires_grad_(flag)
        for layer, (chosen, rows) in enumerate(zip(neurons or (), base or (), strict=True)):
            write_rows(model, layer, chosen, rows)
        _put_back(model, before)


def _engine(
    model: HookedModel,
    *,
    method: str,
    neurons: tuple[Int64[Tensor, " _neuron"], ...] | None,
    options: Hyperparameters,
) -> tuple[Any, Engine]:
    if neurons is not None:
        return model.hf, _ENGINES[options.engine](NeuronRows(model, neurons))
    if method == "lora":
        switches = options.switches
        hf, weights = add_lora(
            model,
            rank=switches.lora_rank,
            alpha=switches.lora_alpha,
            down=switches.lora_down,
            seed=options.seed,
        )
        return hf, DenseMasters(hf, weights)
    return model.hf, DenseMasters(model.hf, trained_weights(model, method))


def _rows(
    model: HookedModel, neurons: tuple[Int64[Tensor, " _neuron"], ...] | None
) -> _Rows | None:
    if neurons is None:
        return None
    return tuple(read_rows(model, layer, chosen).cpu() for layer, chosen in enumerate(neurons))


def _whole_weights(hf: HFModel, *, keep: bool) -> dict[str, Tensor]:
    """Return a model's weights, those that are sharded gathered on the host; nothing to keep else.

    Tied weights stay one tensor.
    """
    weights = {}
    for name, weight in hf.state_dict().items():
        gathered = whole(weight)
        if keep:
            weights[name] = weight if gathered is weight else gathered.cpu()
    return weights


@torch.no_grad()
def _put_back(model: HookedModel, weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        local_part(model.hf.get_parameter(name).detach())[0].copy_(value)
