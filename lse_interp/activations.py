"""Count how often each FFN neuron is active on text of a language."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lse_interp.core.artifacts import ModelInfo, load_artifact, save_artifact
from lse_interp.core.errors import MismatchError
from lse_interp.core.languages import lookup

__all__ = ["ActivationCounts"]

_KIND, _VERSION = "activation_counts", 1


@dataclass(frozen=True)
class ActivationCounts:
    """How often each neuron was active (value > 0) on text of one language.

    Kept per shard, a run of consecutive blocks of the corpus, so that reliability can be
    estimated without a second pass; totals are properties.

    Raises:
        MismatchError: Shapes disagree with each other or with the model, a count lies outside
            0..tokens, or a sum is not a number.
    """

    language: str
    """ISO 639-3."""
    model: ModelInfo
    site: str
    """Kind of site the values were read at, e.g. `mlp.hook_act`."""
    shard_n_positive: Int64[Tensor, "shard layer neuron"]
    """Text tokens at which the neuron's value was > 0."""
    shard_activation_sum: Float64[Tensor, "shard layer neuron"]
    """Sum of the neuron's values over text tokens."""
    shard_n_tokens: Int64[Tensor, " shard"]
    """Text tokens counted; positions that are not text (BOS, separators) are left out."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
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

    def save(self, path: str | Path) -> Path:
        """Write the counts to one `.safetensors` file, atomically."""
        return save_artifact(
            path,
            kind=_KIND,
            version=_VERSION,
            tensors={
                "shard_n_positive": self.shard_n_positive,
                "shard_activation_sum": self.shard_activation_sum,
                "shard_n_tokens": self.shard_n_tokens,
            },
            meta={
                "language": self.language,
                "model": self.model.to_dict(),
                "site": self.site,
                "axes": {
                    "shard_n_positive": ["shard", "layer", "neuron"],
                    "shard_activation_sum": ["shard", "layer", "neuron"],
                    "shard_n_tokens": ["shard"],
                },
                "provenance": dict(self.provenance),
            },
        )

    @classmethod
    def load(cls, path: str | Path, *, totals: bool = False) -> "ActivationCounts":
        """Read counts written by `save`.

        Args:
            path: The `.safetensors` file.
            totals: Whether to add the shards up into one, which takes `n_shards` times less
                memory; reliability can then no longer be estimated.

        Returns:
            The counts, with the shards they were saved with, or one.

        Raises:
            ArtifactError: The file is missing, truncated, altered or of another kind.
        """
        tensors, meta = load_artifact(path, kind=_KIND, version=_VERSION)
        if totals:
            tensors = {name: tensor.sum(dim=0, keepdim=True) for name, tensor in tensors.items()}
        return cls(
            language=meta["language"],
            model=ModelInfo.from_dict(meta["model"]),
            site=meta["site"],
            provenance=meta["provenance"],
            **tensors,
        )


def _check(counts: ActivationCounts) -> None:
    lookup(counts.language)
    shape = (counts.n_shards, counts.model.n_layers, counts.model.d_mlp)
    for name in ("shard_n_positive", "shard_activation_sum"):
        found = tuple(getattr(counts, name).shape)
        if found != shape:
            raise MismatchError(
                f"{name} of {counts.language} should be [shard layer neuron] = {list(shape)} for "
                f"{counts.model.name}; got {list(found)}."
            )
    ceiling = counts.shard_n_tokens[:, None, None]
    if counts.n_shards == 0 or bool((counts.shard_n_tokens <= 0).any()):
        raise MismatchError(
            f"Counts of {counts.language} need at least one shard and text in each; got tokens "
            f"{counts.shard_n_tokens.tolist()}."
        )
    if bool((counts.shard_n_positive < 0).any() | (counts.shard_n_positive > ceiling).any()):
        raise MismatchError(
            f"A count of {counts.language} lies outside 0..n_tokens of its shard; a neuron is "
            "active on at most every token."
        )
    if not bool(torch.isfinite(counts.shard_activation_sum).all()):
        raise MismatchError(f"An activation sum of {counts.language} is not a finite number.")
