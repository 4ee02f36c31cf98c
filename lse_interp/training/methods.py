"""Method by method: what is trained, by which engine, and how the model is left plain again."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from lse_interp.core.errors import LseError
from lse_interp.core.neurons import NeuronSets
from lse_interp.models import HookedModel
from lse_interp.training.baselines import DenseMasters, add_lora, trained_weights
from lse_interp.training.compact import CompactRows
from lse_interp.training.engines import Engine, NeuronRows
from lse_interp.training.masking import MaskedGradients
from lse_interp.training.options import Hyperparameters

__all__ = ["Prepared", "choose_neurons", "prepared", "put_back", "weights_of"]

_ENGINES = {"compact": CompactRows, "hooks": MaskedGradients}


@dataclass(frozen=True)
class Prepared:
    """A model ready to train."""

    hf: nn.Module
    """The transformers model, or the peft model around it."""
    engine: Engine

    @property
    def n_trainable(self) -> int:
        """Number of trained weights."""
        return sum(leaf.numel() for leaf in self.engine.leaves().values())


def choose_neurons(
    neurons: NeuronSets | None, *, language: str, method: str, match: str, seed: int
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
    if method not in ("target", "random"):
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
    neurons: Sequence[Int64[Tensor, " _neuron"]] | None,
    options: Hyperparameters,
) -> Iterator[Prepared]:
    """Make a model ready to train; it is plain again afterwards, with the weights it then has.

    LoRA adapters are taken off again.

    Args:
        model: The model.
        method: One of `options.METHODS`.
        neurons: What `choose_neurons` returned.
        options: Engine, LoRA rank and scale, seed.
    """
    if neurons is not None:
        engine: Engine = _ENGINES[options.engine](NeuronRows(model, neurons))
        hf: Any = model.hf
    elif method == "lora":
        switches = options.switches
        hf, weights = add_lora(
            model,
            rank=switches.lora_rank,
            alpha=switches.lora_alpha,
            down=switches.lora_down,
            seed=options.seed,
        )
        engine = DenseMasters(hf, weights)
    else:
        hf = model.hf
        engine = DenseMasters(hf, trained_weights(model, method))
    was_training = hf.training
    try:
        yield Prepared(hf, engine)
    finally:
        engine.close()
        hf.train(was_training)
        if method == "lora":
            hf.unload()


def weights_of(model: HookedModel, method: str) -> dict[str, Tensor]:
    """Copy to the host what a dense method changes, so that it can be put back."""
    if method not in ("ffn", "full"):
        return {}
    return {n: w.detach().cpu().clone() for n, w in trained_weights(model, method).items()}


@torch.no_grad()
def put_back(model: HookedModel, weights: dict[str, Tensor]) -> None:
    """Undo a dense method."""
    for name, value in weights.items():
        model.hf.get_parameter(name).copy_(value)
