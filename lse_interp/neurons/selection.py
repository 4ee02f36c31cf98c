"""What a selector returns, and the activation probabilities that it usually reads."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.core.cli import progress
from lse_interp.core.errors import LseError
from lse_interp.counting.counts import ActivationCounts

__all__ = ["Selection", "activation_probabilities"]


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """The neurons that a selector chose, and the evidence for them."""

    member: Bool[Tensor, "lang layer neuron"]
    """Whether a neuron belongs to a language, in the order of the counts."""
    scores: Float64[Tensor, "layer neuron"] | None = None
    """The score of every neuron, at least 0."""
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What the parameters came to."""
    probability: Float64[Tensor, "lang layer neuron"] | None = None
    """See `activation_probabilities`; random controls of equal activity need it."""


def activation_probabilities(
    counts: Mapping[str, ActivationCounts],
) -> Float64[Tensor, "lang layer neuron"]:
    """Stack the probabilities of all languages, reading the counts of one language at a time.

    Raises:
        LseError: No language.
    """
    probability: Tensor | None = None
    each = progress(counts.values(), desc="counts", total=len(counts), unit="language")
    for position, found in enumerate(each):
        if probability is None:
            # Allocated once: stacking at the end would need the memory twice.
            shape = (len(counts), found.model.n_layers, found.model.d_mlp)
            probability = torch.empty(shape, dtype=torch.float64)
        probability[position] = found.probability
    if probability is None:
        raise LseError("Choosing neurons needs activation counts; got none.")
    return probability
