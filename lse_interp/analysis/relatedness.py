"""How languages are related, and whether a similarity between them follows the family tree."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from lse_interp.core.errors import LseError
from lse_interp.core.languages import UNKNOWN, describe, lookup
from lse_interp.core.statistics import mantel_p_value

__all__ = ["RelatedSummary", "compare_relatives", "relation"]


@dataclasses.dataclass(frozen=True)
class RelatedSummary:
    """Whether a similarity is higher within branches of the family tree than elsewhere."""

    mean_related: float
    """Mean over pairs of languages in one branch."""
    mean_other: float
    """Mean over all other pairs."""
    n_related: int
    """Pairs in one branch."""
    n_other: int
    p_value: float
    """Share of label permutations with at least this difference of means, in (0, 1]."""
    n_permutations: int
    seed: int


def relation(language: str, other: str) -> str:
    """Say how two languages are related.

    Returns:
        `branch` (same branch of a family), `family` (same family, another branch), `none`, or
        `unknown` if the family of one is.

    >>> relation("slk", "slv"), relation("slk", "lit"), relation("slk", "ekk")
    ('branch', 'family', 'none')
    """
    a, b = describe(language), describe(other)
    if UNKNOWN in (a.family, b.family):
        return UNKNOWN
    if a.family != b.family:
        return "none"
    return "branch" if a.branch == b.branch else "family"


def compare_relatives(
    similarity: Float64[Tensor, "lang lang"],
    *,
    languages: Sequence[str],
    n_permutations: int = 10_000,
    seed: int = 0,
) -> RelatedSummary:
    """Test whether languages of one branch are more similar than other pairs.

    See `core.statistics.mantel_p_value`: whole languages are permuted.

    Args:
        similarity: symmetric, finite; the diagonal is not used.
        languages: codes in the order of both axes; those of an unknown family are left out.
        n_permutations: at least 1.
        seed: at least 0.

    Raises:
        LanguageError: an unknown language.
        LseError: no pair in one branch, or no other pair.
    """
    records = [lookup(code) for code in languages]
    known = [at for at, record in enumerate(records) if record.family != UNKNOWN]
    similarity = similarity[known][:, known]
    places = [(records[at].family, records[at].branch) for at in known]
    same_branch = torch.tensor([[a == b for b in places] for a in places])
    first, second = torch.triu_indices(len(known), len(known), offset=1)
    related, values = same_branch[first, second], similarity[first, second]
    n_related, n_other = int(related.sum()), int((~related).sum())
    if not n_related or not n_other:
        raise LseError(
            "Comparing relatives with others needs at least one pair of languages in one branch "
            f"and one pair that is not; got {n_related} and {n_other} ({' '.join(languages)})."
        )
    return RelatedSummary(
        mean_related=float(values[related].mean()),
        mean_other=float(values[~related].mean()),
        n_related=n_related,
        n_other=n_other,
        p_value=mantel_p_value(similarity, same_branch, n_permutations=n_permutations, seed=seed),
        n_permutations=n_permutations,
        seed=seed,
    )
