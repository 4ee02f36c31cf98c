"""ActivationCounts: how often each neuron was active on text of one language."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lse_interp.artifacts.format import load_artifact
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import MismatchError
from lse_interp.core.languages import lookup
from lse_interp.models.info import ModelInfo

__all__ = ["ActivationCounts", "merge"]

_AXES = {
    "shard_n_positive": ("shard", "layer", "neuron"),
    "shard_activation_sum": ("shard", "layer", "neuron"),
    "shard_n_tokens": ("shard",),
}


@dataclass(frozen=True)
class ActivationCounts(Stored):
    """How often each neuron was active (value > 0) on text of one language.

    Kept per shard, a run of consecutive blocks of the corpus, so that reliability can be
    estimated without a second pass; totals are properties.

    Raises:
        LanguageError: Unknown language.
        MismatchError: Shapes disagree with each other or with the model, a count lies outside
            0..n_tokens, or a sum is not a number.
    """

    KIND = "activation_counts"
    AXES: ClassVar = _AXES
    META = ("language", "model", "site", "provenance")
    READ: ClassVar = {"model": ModelInfo.from_dict}

    language: str
    """ISO 639-3; any spelling that `core.languages.lookup` knows is turned into it."""
    model: ModelInfo
    site: str
    """Kind of site the values were read at, e.g. `mlp.hook_act`."""
    shard_n_positive: Int64[Tensor, "shard layer neuron"]
    """Text tokens at which the neuron's value was > 0."""
    shard_activation_sum: Float64[Tensor, "shard layer neuron"]
    """Sum of the neuron's values over text tokens."""
    shard_n_tokens: Int64[Tensor, " shard"]
    """Text tokens counted; BOS and separators are left out."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", lookup(self.language).code)
        _check(self)

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self.shard_n_tokens)

    @property
    def n_tokens(self) -> int:
        """Text tokens counted, over all shards."""
        return int(self.shard_n_tokens.sum())

    @property
    def n_positive(self) -> Int64[Tensor, "layer neuron"]:
        """Text tokens at which the neuron was active, over all shards."""
        return self.shard_n_positive.sum(dim=0)

    @property
    def activation_sum(self) -> Float64[Tensor, "layer neuron"]:
        """Sum of the neuron's values, over all shards."""
        return self.shard_activation_sum.sum(dim=0)

    @property
    def probability(self) -> Float64[Tensor, "layer neuron"]:
        """Share of text tokens at which the neuron was active: p = n_positive / n_tokens."""
        return self.n_positive.double() / self.n_tokens

    def split_half_correlation(self) -> float:
        """Correlate the probabilities in the even shards with those in the odd ones.

        Returns:
            Pearson's r over all neurons: near 1 where the text suffices to tell the neurons
            apart, near 0 where the counts are noise.

        Raises:
            MismatchError: There is one shard only, or a half in which all neurons are alike.
        """
        if self.n_shards < 2:
            raise MismatchError(
                f"Split-half reliability needs at least 2 shards; the counts of {self.language} "
                "have 1. Load them with totals=False, or count with n_shards of 2 or more."
            )
        n_positive = [self.shard_n_positive[half::2].sum(dim=0) for half in (0, 1)]
        r = float(torch.corrcoef(torch.stack(n_positive).double().flatten(1))[0, 1])
        if math.isnan(r):
            raise MismatchError(
                f"All neurons of {self.model.name} are equally active in half of the shards of "
                f"{self.language}, which correlates with nothing. Count more text."
            )
        return r

    def to_frame(self) -> pd.DataFrame:
        """Return a row per neuron: language, layer, neuron, n_positive, probability, mean."""
        n_layers, d_mlp = self.n_positive.shape
        return pd.DataFrame(
            {
                "language": self.language,
                "layer": np.repeat(np.arange(n_layers), d_mlp),
                "neuron": np.tile(np.arange(d_mlp), n_layers),
                "n_positive": self.n_positive.flatten().numpy(),
                "probability": self.probability.flatten().numpy(),
                "mean": (self.activation_sum / self.n_tokens).flatten().numpy(),
            }
        )

    @classmethod
    def load(cls, path: str | Path, *, totals: bool = False) -> "ActivationCounts":
        """Read counts written by `save`.

        Args:
            path: The `.safetensors` file.
            totals: Whether to add the shards up into one, which keeps `n_shards` times less in
                memory; reliability can then no longer be estimated.

        Returns:
            The counts, with the shards they were saved with, or one.

        Raises:
            ArtifactError: The file is missing, truncated, altered or of another kind.
        """
        tensors, meta = load_artifact(path, kind=cls.KIND, version=cls.VERSION)
        if totals:
            tensors = {name: tensor.sum(dim=0, keepdim=True) for name, tensor in tensors.items()}
        return cls(**cls._fields(tensors, meta))


def merge(a: ActivationCounts, b: ActivationCounts) -> ActivationCounts:
    """Add up counts of the same language, model and site over different text.

    The shards of both are kept, so totals add up exactly.

    Raises:
        MismatchError: Language, model or site differ, or both counted the same text.
    """
    a.model.require_same(b.model, what=f"The second counts of {b.language}")
    for name in ("language", "site"):
        if getattr(a, name) != getattr(b, name):
            raise MismatchError(
                f"Only counts of one {name} can be merged; got {getattr(a, name)} and "
                f"{getattr(b, name)}. Keep them apart."
            )
    if _texts(a.provenance) & _texts(b.provenance):
        raise MismatchError(
            f"Both counts of {a.language} hold the same text, which would count twice. Merge "
            "counts of different text."
        )
    return ActivationCounts(
        language=a.language,
        model=a.model,
        site=a.site,
        **{name: torch.cat([getattr(a, name), getattr(b, name)]) for name in _AXES},
        provenance=provenance(merged=[a.provenance, b.provenance]),
    )


def _texts(about: Mapping[str, Any]) -> set[str]:
    """Collect the digests of the texts behind counts, merged or not."""
    found = {about["settings"]["text"]} if "settings" in about else set()
    return found.union(*(_texts(part) for part in about.get("merged", ())))


def _check(counts: ActivationCounts) -> None:
    n_tokens = counts.shard_n_tokens
    if counts.n_shards == 0 or bool((n_tokens < 1).any()):
        raise MismatchError(
            f"Counts of {counts.language} need at least one shard, and text in each; got "
            f"{n_tokens.tolist()} tokens."
        )
    shape = [counts.n_shards, counts.model.n_layers, counts.model.d_mlp]
    for name in ("shard_n_positive", "shard_activation_sum"):
        found = list(getattr(counts, name).shape)
        if found != shape:
            raise MismatchError(
                f"{name} of {counts.language} should be [shard layer neuron] = {shape} for "
                f"{counts.model.name}; got {found}."
            )
    n_positive = counts.shard_n_positive
    if bool((n_positive < 0).any() | (n_positive > n_tokens[:, None, None]).any()):
        raise MismatchError(
            f"A count of {counts.language} lies outside 0..n_tokens of its shard; a neuron is "
            "active at most at every token."
        )
    if not bool(counts.shard_activation_sum.isfinite().all()):
        raise MismatchError(f"An activation sum of {counts.language} is not a finite number.")
