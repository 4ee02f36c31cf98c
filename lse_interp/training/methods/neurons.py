"""Methods that train chosen neurons: those of the language, and as many random ones.

Source: paper, sections 3.2 and 4.3 (iii).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from lse_interp.core.cli import ModelArgs
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import read_rows, write_rows
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.apply import apply_subnetwork
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.engines.base import Engine, NeuronRows
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.methods import METHODS, Look, Method
from lse_interp.training.methods._common import Trainable, base_of, tuned

__all__ = ["load_rows", "train_rows"]

_ENGINES: dict[str, Callable[[NeuronRows], Engine]] = {
    "compact": CompactRows,
    "masked": MaskedGradients,
}


@contextlib.contextmanager
def train_rows(
    model: HookedModel,
    *,
    neurons: tuple[Int64[Tensor, " _neuron"], ...],
    options: Hyperparameters,
) -> Iterator[Trainable]:
    """Make the rows of chosen neurons ready to train; afterwards they are as before."""
    base = [read_rows(model, layer, chosen).cpu() for layer, chosen in enumerate(neurons)]
    engine = _ENGINES[options.engine](NeuronRows(model, neurons))
    try:
        yield Trainable(model.hf, engine)
    finally:
        engine.close()
        for layer, (chosen, rows) in enumerate(zip(neurons, base, strict=True)):
            write_rows(model, layer, chosen, rows)


def load_rows(run: FinetuneRun, args: ModelArgs) -> HookedModel:
    """Write the rows of a run into its base model; `remove_subnetwork` takes them out again."""
    model = base_of(run, args)
    apply_subnetwork(model, run)
    return tuned(run, model.hf, model, backend=args.backend)


def _of_language(
    sets: NeuronSets, *, language: str, variant: str | None, seed: int
) -> tuple[Int64[Tensor, " _neuron"], ...]:
    return sets[language]


def _at_random(
    sets: NeuronSets, *, language: str, variant: Any, seed: int
) -> tuple[Int64[Tensor, " _neuron"], ...]:
    return sets.select(language).random_like(seed=seed, match=variant)[language]


METHODS.register("target")(
    Method(
        name="target",
        rank=0,
        looks={"target": Look("Target", "#d00516", 0)},
        choose=_of_language,
        prepare=train_rows,
        load=load_rows,
        flags=("engine",),
    )
)

METHODS.register("random")(
    Method(
        name="random",
        rank=10,
        looks={
            "random:layer": Look("Random (layer)", "#222222", 1),
            "random:size": Look("Random (size)", "#6d6d6d", 2),
            "random:activity": Look("Random (activity)", "#c0c0c0", 3, compared=False),
        },
        default_variant="size",
        choose=_at_random,
        prepare=train_rows,
        load=load_rows,
        flags=("engine",),
    )
)
