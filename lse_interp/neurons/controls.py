"""Random controls for a set of neurons: three ways to say "the same, but not these"."""

from bisect import bisect_left, bisect_right

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.artifacts.registry import writer_command
from lse_interp.core.errors import LseError, near_misses

__all__ = ["draw_control"]

_MATCHES = ("size", "layer", "activity")
_WINDOW = 5
"""An activity-matched neuron is one of the 2 * 5 unused ones closest in rank."""


def draw_control(
    mask: Bool[Tensor, "layer neuron"],
    *,
    language: str,
    seed: int,
    match: str,
    probability: Float64[Tensor, "layer neuron"] | None = None,
) -> Bool[Tensor, "layer neuron"]:
    """Draw as many neurons as `mask` marks, none of them marked by it.

    - `size`: uniformly over all layers and neurons;
    - `layer`: uniformly within each layer, as many as there;
    - `activity`: within each layer, every marked neuron (in random order) is given a partner at
      random among the 10 unused unmarked neurons next to it by activation probability.

    Args:
        mask: the neurons to imitate.
        language: code that, with `seed`, starts the random generator.
        seed: at least 0.
        match: `size`, `layer` or `activity`.
        probability: activation probability in this language, for `activity`.

    Raises:
        LseError: too few unmarked neurons, an unknown `match` or a negative `seed`.
    """
    if match not in _MATCHES:
        raise LseError(f"Unknown match {match!r}. {near_misses(match, _MATCHES)}")
    if seed < 0:
        raise LseError(f"`seed` must be at least 0; got {seed}.")
    rng = np.random.default_rng([seed, *language.encode()])
    marked = mask.numpy()
    if match == "size":
        drawn = _draw(marked.ravel(), rng, f"{language} over all layers").reshape(mask.shape)
        return torch.from_numpy(drawn)
    if match == "activity" and (probability is None or probability.isnan().any()):
        known = "none" if probability is None else "only some"
        raise LseError(
            f"match='activity' needs activation probabilities of all neurons; {known} are known "
            f"for {language}. Use the file that `{writer_command('neuron_sets')}` wrote, or "
            "match='layer'."
        )
    drawn = np.zeros_like(marked)
    for layer, row in enumerate(marked):
        where = f"{language} in layer {layer}"
        if match == "layer" or probability is None:
            drawn[layer] = _draw(row, rng, where)
        else:
            _require_room(row, where)
            drawn[layer, _partners(row, probability[layer].numpy(), rng)] = True
    return torch.from_numpy(drawn)


def _draw(mask: np.ndarray, rng: np.random.Generator, where: str) -> np.ndarray:
    _require_room(mask, where)
    drawn = np.zeros_like(mask)
    drawn[rng.choice(np.flatnonzero(~mask), size=mask.sum(), replace=False)] = True
    return drawn


def _partners(mask: np.ndarray, probability: np.ndarray, rng: np.random.Generator) -> list[int]:
    # Shuffled first, so that ties (many neurons never fire) are not resolved by index.
    unused = rng.permutation(np.flatnonzero(~mask))
    unused = unused[np.argsort(probability[unused], kind="stable")].tolist()
    ranks = probability[unused].tolist()
    partners = []
    for value in probability[rng.permutation(np.flatnonzero(mask))].tolist():
        place = int(rng.integers(bisect_left(ranks, value), bisect_right(ranks, value) + 1))
        low = max(0, min(place - _WINDOW, len(ranks) - 2 * _WINDOW))
        chosen = int(rng.integers(low, min(low + 2 * _WINDOW, len(ranks))))
        partners.append(unused.pop(chosen))
        ranks.pop(chosen)
    return partners


def _require_room(mask: np.ndarray, where: str) -> None:
    needed, free = int(mask.sum()), int((~mask).sum())
    if needed > free:
        raise LseError(
            f"A random control for {where} needs {needed} neurons outside the set it imitates, "
            f"but only {free} of {mask.size} remain. Use a smaller set (lower `k`), or "
            "match='size', which draws from all layers."
        )
