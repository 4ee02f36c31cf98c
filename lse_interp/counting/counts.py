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
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.foreign_counts import read_counts
from lse_interp.models.info import HasInfo, ModelInfo, info_of

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
        MismatchError: Shapes disagree with each other or with the model, a count is negative or
            larger than the number of tokens, or a sum is not a number.
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
    shard_n_tokens: Int64[Tensor, " shard"]
    """Text tokens counted; BOS and separators are left out."""
    shard_activation_sum: Float64[Tensor, "shard layer neuron"] | None = None
    """Sum of the neuron's values over text tokens; None where another project saved none."""
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
    def activation_sum(self) -> Float64[Tensor, "layer neuron"] | None:
        """Sum of the neuron's values, over all shards; None where it is not known."""
        sums = self.shard_activation_sum
        return None if sums is None else sums.sum(dim=0)

    @property
    def mean(self) -> Float64[Tensor, "layer neuron"]:
        """Mean of the neuron's values over text tokens.

        Raises:
            MismatchError: The sums are not known.
        """
        if self.activation_sum is None:
            raise MismatchError(
                f"The counts of {self.language} hold no sums of activations, so no means are "
                "known. Count with `lse activations`, which keeps sums."
            )
        return self.activation_sum / self.n_tokens

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
        """Return a row per neuron: language, layer, neuron, n_positive, probability, mean.

        `mean` is NaN where sums are not known.
        """
        n_layers, d_mlp = self.n_positive.shape
        return pd.DataFrame(
            {
                "language": self.language,
                "layer": np.repeat(np.arange(n_layers), d_mlp),
                "neuron": np.tile(np.arange(d_mlp), n_layers),
                "n_positive": self.n_positive.flatten().numpy(),
                "probability": self.probability.flatten().numpy(),
                "mean": np.nan if self.activation_sum is None else self.mean.flatten().numpy(),
            }
        )

    @classmethod
    def from_counts(
        cls,
        source: str | Path | Mapping[str, Any],
        *,
        language: str,
        model: ModelInfo | HasInfo,
        site: str = CountSettings.site,
        prefix: str | Path | Mapping[str, Any] | None = None,
    ) -> "ActivationCounts":
        """Read counts that another project saved; see `counting.foreign_counts` for the layouts.

        Sums of activations are not read: projects differ in which tokens they sum over.

        Args:
            source: A file that torch wrote, or `.npz`; or a dict, such as
                `{"n": n_tokens, "over_zero": counts}` with counts [layer neuron].
            language: In any spelling.
            model: The model that was counted; `ModelInfo.from_config` needs no weights.
            site: The kind of site that was counted.
            prefix: Counts of the prompts alone, which are taken off; by default, for a file with
                `total_tokens`, the file `prefix.<name>` in the same folder, if there is one.

        Raises:
            ArtifactError: A file that cannot be read.
            LanguageError: Unknown language.
            MismatchError: Other keys or shapes, or values that are no counts.
        """
        info = info_of(model)
        n_tokens, n_positive = read_counts(source, model=info, prefix=prefix)
        return cls(
            language=lookup(language).code,
            model=info,
            site=site,
            shard_n_positive=n_positive[None],
            shard_n_tokens=torch.tensor([n_tokens]),
            provenance=provenance(source="a dict" if isinstance(source, Mapping) else str(source)),
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
    parts = {name: (getattr(a, name), getattr(b, name)) for name in _AXES}
    known = {name: pair for name, pair in parts.items() if not any(x is None for x in pair)}
    return ActivationCounts(
        language=a.language,
        model=a.model,
        site=a.site,
        **{name: torch.cat(pair) for name, pair in known.items()},
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
    sums = counts.shard_activation_sum
    for name, grid in (("shard_n_positive", counts.shard_n_positive), ("activation sums", sums)):
        if grid is not None and list(grid.shape) != shape:
            raise MismatchError(
                f"{name} of {counts.language} should be [shard layer neuron] = {shape} for "
                f"{counts.model.name}; got {list(grid.shape)}."
            )
    most = n_tokens[:, None, None].expand(shape)
    for what, wrong in (
        ("negative", counts.shard_n_positive < 0),
        ("larger than the number of tokens", counts.shard_n_positive > most),
    ):
        if n_wrong := int(wrong.sum()):
            shard, layer, neuron = first = tuple(wrong.nonzero()[0].tolist())
            raise MismatchError(
                f"{n_wrong} counts of {counts.language} are {what}; the first is "
                f"{counts.shard_n_positive[first]} of {most[first]} tokens, for neuron {neuron} of "
                f"layer {layer} in shard {shard}. A count says at how many tokens a neuron is "
                "active; make these again."
            )
    if sums is not None and not bool(sums.isfinite().all()):
        raise MismatchError(f"An activation sum of {counts.language} is not a finite number.")
