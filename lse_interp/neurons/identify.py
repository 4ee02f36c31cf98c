"""From activation counts to the neurons of each language."""

from collections.abc import Mapping

import torch

from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import MismatchError
from lse_interp.counting.counts import ActivationCounts
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.selectors.lape import check_n_languages, select
from lse_interp.neurons.sets import NeuronSets

__all__ = ["identify"]


def identify(
    counts: Mapping[str, ActivationCounts],
    *,
    k: float = 0.05,
    activity_quantile: float = 0.95,
    selectivity_quantile: float = 0.95,
) -> NeuronSets:
    """Find the neurons of each language from its activation counts.

    See `select` for the rule and its parameters. `counts` is read one language at a time, so a
    mapping that loads on access keeps memory to one language's counts and all probabilities.

    Args:
        counts: language -> counts, all of one model at one site; at least two languages.
        k: share of all neurons to choose, in (0, 1].
        activity_quantile: in (0, 1).
        selectivity_quantile: in (0, 1).

    Raises:
        MismatchError: counts of different models or sites, or filed under another language.
        LseError: see `select`.
    """
    check_n_languages(len(counts))
    first: ActivationCounts | None = None
    probability = torch.empty(0, dtype=torch.float64)
    n_tokens: dict[str, int] = {}
    corpora: dict[str, str | None] = {}
    for position, (language, found) in enumerate(counts.items()):
        if first is None:
            first = found
            shape = (len(counts), found.model.n_layers, found.model.d_mlp)
            probability = torch.empty(shape, dtype=torch.float64)
        _check_fits(first, found, language=language)
        probability[position] = found.probability
        n_tokens[language] = found.n_tokens
        corpora[language] = found.provenance.get("settings", {}).get("corpus")
    assert first is not None
    selection = select(
        probability,
        k=k,
        activity_quantile=activity_quantile,
        selectivity_quantile=selectivity_quantile,
    )
    return NeuronSets(
        indices={
            language: mask_to_indices(member)
            for language, member in zip(n_tokens, selection.member, strict=True)
        },
        model=first.model,
        site=first.site,
        method="lape",
        thresholds=selection.thresholds,
        lape=selection.lape,
        probability=probability,
        provenance=provenance(n_tokens=n_tokens, corpora=corpora),
    )


def _check_fits(first: ActivationCounts, found: ActivationCounts, *, language: str) -> None:
    if found.language != language:
        raise MismatchError(
            f"Counts filed under {language} are of {found.language}. File them by their own code."
        )
    first.model.require_same(found.model, what=f"Counts of {language}")
    if first.site != found.site:
        raise MismatchError(
            f"Counts of different sites cannot be compared: {first.language} at {first.site}, "
            f"{language} at {found.site}. Count all languages at one site."
        )
