"""Measure which languages share neurons, against chance and by family.

For languages A and B with n_A and n_B neurons in a model of L layers x I neurons:
intersection |A and B|; Jaccard |A and B| / |A or B|; and what two random sets would share,
n_A n_B / (L I), or with the sets' own distribution over layers, sum over layers of
a_l b_l / I. The ratio of found to expected is 1 for unrelated sets.

Source: paper, appendix A, Figures 8 and 9 (intersections); Jaccard, expectation and the test of
relatedness are additions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lse_interp.analysis.relatedness import RelatedSummary, compare_relatives, relation
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import LanguageError, LseError, MismatchError, near_misses
from lse_interp.core.languages import codes_of, family_order
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets

__all__ = ["OverlapMatrix", "measure_overlap", "overlap_report", "related_summary"]

_MOST_PRINTED = 30
_PAIR_VALUES = (
    "intersection",
    "union",
    "jaccard",
    "expected",
    "ratio",
    "expected_by_layer",
    "ratio_by_layer",
)


@dataclasses.dataclass(frozen=True, eq=False)
class OverlapMatrix(Stored):
    """How many neurons each pair of languages shares, per layer.

    Select by code: `overlap.at("slk", "slv")`. Everything else is computed from the counts on
    request.

    Raises:
        MismatchError: shapes, symmetry or sizes that no sets of neurons can have.
    """

    KIND = "overlap_matrix"
    AXES: ClassVar = {"layer_intersection": ("lang", "lang", "layer")}
    META = ("languages", "model", "site", "method", "provenance")
    READ: ClassVar = {"model": ModelInfo.from_dict}

    languages: tuple[str, ...]
    """Ordered so that relatives are neighbours (`family_order`)."""
    layer_intersection: Int64[Tensor, "lang lang layer"]
    """Neurons shared in each layer; the diagonal holds each language's own number."""
    model: ModelInfo
    site: str | None
    method: str
    """How the neurons were chosen."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        shared = self.layer_intersection
        shape = (len(self.languages), len(self.languages), self.model.n_layers)
        if tuple(shared.shape) != shape:
            raise MismatchError(
                f"`layer_intersection` must have shape {shape}; got {tuple(shared.shape)}."
            )
        if not torch.equal(shared, shared.transpose(0, 1)):
            raise MismatchError("`layer_intersection` must be symmetric in its two languages.")
        own = shared.diagonal().T
        smaller = torch.minimum(own[:, None], own[None, :])
        if (shared < 0).any() or (shared > smaller).any() or (own > self.model.d_mlp).any():
            raise MismatchError(
                "`layer_intersection` must be between 0 and the smaller of the two sets, and no "
                f"set larger than {self.model.d_mlp} per layer."
            )

    @property
    def sizes(self) -> Int64[Tensor, " lang"]:
        """Neurons of each language."""
        return self.intersection.diagonal()

    @property
    def intersection(self) -> Int64[Tensor, "lang lang"]:
        """Neurons shared, over all layers."""
        return self.layer_intersection.sum(dim=-1)

    @property
    def union(self) -> Int64[Tensor, "lang lang"]:
        """Neurons of either language: n_A + n_B - |A and B|."""
        return self.sizes[:, None] + self.sizes[None, :] - self.intersection

    @property
    def jaccard(self) -> Float64[Tensor, "lang lang"]:
        """Share of shared neurons, |A and B| / |A or B|, in [0, 1]; NaN for two empty sets."""
        return self.intersection.double() / self.union

    @property
    def expected(self) -> Float64[Tensor, "lang lang"]:
        """Neurons that two random sets of these sizes share on average: n_A n_B / (L I).

        Off the diagonal; a set and itself are not independent.
        """
        sizes = self.sizes.double()
        return sizes[:, None] * sizes[None, :] / (self.model.n_layers * self.model.d_mlp)

    @property
    def expected_by_layer(self) -> Float64[Tensor, "lang lang"]:
        """As `expected`, for random sets with the same number per layer: sum_l a_l b_l / I.

        The stricter expectation: language neurons crowd in some layers, and meet there by chance.
        """
        own = self.layer_intersection.diagonal().T.double()
        return own @ own.T / self.model.d_mlp

    @property
    def ratio(self) -> Float64[Tensor, "lang lang"]:
        """`intersection` / `expected`; NaN if a set is empty."""
        return self.intersection / self.expected

    @property
    def ratio_by_layer(self) -> Float64[Tensor, "lang lang"]:
        """`intersection` / `expected_by_layer`; NaN if the sets have no layer in common."""
        return self.intersection / self.expected_by_layer

    def at(self, language: str, other: str) -> pd.Series:
        """Return the row of `to_frame` for one pair, whichever of the two is named first."""
        codes = codes_of((language, other))
        for code in codes:
            if code not in self.languages:
                raise LanguageError(
                    f"No neurons of {code!r} here. {near_misses(code, self.languages)}"
                )
        if len(codes) < 2:
            raise LanguageError(f"A pair needs two languages; got {language!r} twice.")
        frame = self.to_frame()
        pair = frame["language"].isin(codes) & frame["other"].isin(codes)
        return frame[pair].iloc[0]

    def to_frame(self) -> pd.DataFrame:
        """List every pair of languages once, in the order of `languages`.

        Columns: language, other, relation (see `relation`), n_language, n_other, intersection,
        union, jaccard, expected, ratio, expected_by_layer, ratio_by_layer.
        """
        first, second = np.triu_indices(len(self.languages), k=1)
        names = np.array(self.languages, dtype=object)
        pairs = {"language": names[first], "other": names[second]}
        relations = [relation(a, b) for a, b in zip(*pairs.values(), strict=True)]
        sizes = {"n_language": self.sizes[first], "n_other": self.sizes[second]}
        values = {name: getattr(self, name)[first, second] for name in _PAIR_VALUES}
        columns = {name: tensor.numpy() for name, tensor in (sizes | values).items()}
        return pd.DataFrame(pairs | {"relation": relations} | columns)


def measure_overlap(neurons: NeuronSets) -> OverlapMatrix:
    """Count the neurons each pair of languages shares in each layer.

    Args:
        neurons: the sets; their order does not matter.

    Returns:
        Counts with the languages in family order.

    Source: paper, Figures 8 and 9.
    """
    languages = tuple(family_order(neurons))
    shared = [
        _layer_intersection([neurons[code][layer] for code in languages], neurons.model.d_mlp)
        for layer in range(neurons.model.n_layers)
    ]
    return OverlapMatrix(
        languages=languages,
        layer_intersection=torch.stack(shared, dim=-1),
        model=neurons.model,
        site=neurons.site,
        method=neurons.method,
        provenance=provenance(thresholds=dict(neurons.thresholds)),
    )


def related_summary(
    overlap: OverlapMatrix, *, n_permutations: int = 10_000, seed: int = 0
) -> RelatedSummary:
    """Test whether languages of one branch share more neurons (Jaccard) than other pairs.

    Languages without neurons are left out; see `analysis.relatedness.compare_relatives`.

    Raises:
        LanguageError: a code that is not in `core.languages`.
        LseError: no pair in one branch, or no other pair.
    """
    present = overlap.sizes.nonzero().flatten()
    return compare_relatives(
        overlap.jaccard[present][:, present],
        languages=[overlap.languages[position] for position in present.tolist()],
        n_permutations=n_permutations,
        seed=seed,
    )


def overlap_report(overlap: OverlapMatrix) -> str:
    """Tabulate the Jaccard index and the closest pairs; say whether relatives share more."""
    names, parts = list(overlap.languages), []
    if len(names) <= _MOST_PRINTED:
        jaccard = pd.DataFrame(overlap.jaccard.numpy(), index=names, columns=names)
        parts.append("Jaccard:\n" + jaccard.to_string(float_format="{:.2f}".format, na_rep="-"))
    highest = overlap.to_frame().nlargest(5, "jaccard")
    shown = ["language", "other", "relation", "intersection", "jaccard", "ratio", "ratio_by_layer"]
    parts.append("Closest pairs:\n" + highest[shown].round(3).to_string(index=False))
    try:
        summary = related_summary(overlap)
    except LseError as error:
        parts.append(str(error))
    else:
        parts.append(
            f"Mean Jaccard {summary.mean_related:.3f} within a branch ({summary.n_related} pairs), "
            f"{summary.mean_other:.3f} elsewhere ({summary.n_other} pairs); "
            f"p = {summary.p_value:.4f}"
        )
    return "\n".join(parts)


def _layer_intersection(
    sets: Sequence[Int64[Tensor, " _neuron"]], d_mlp: int
) -> Int64[Tensor, "lang lang"]:
    member = torch.zeros(len(sets), d_mlp, dtype=torch.float64)
    for row, neurons in zip(member, sets, strict=True):
        row[neurons] = 1
    return (member @ member.T).long()
