"""From activation counts to the neurons of each language."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lse_interp.artifacts.paths import DEFAULT_SELECTOR
from lse_interp.artifacts.provenance import provenance
from lse_interp.counting.counts import ActivationCounts
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.selection import CheckedCounts
from lse_interp.neurons.selectors import SELECTORS
from lse_interp.neurons.sets import NeuronSets

__all__ = ["identify"]


def identify(
    counts: Mapping[str, ActivationCounts],
    *,
    selector: str = DEFAULT_SELECTOR,
    **parameters: Any,
) -> NeuronSets:
    """Find the neurons of each language from its activation counts.

    `counts` is read one language at a time, so a mapping that loads on access keeps memory to one
    language's counts and all probabilities.

    Args:
        counts: language, in any spelling -> counts, all of one model at one site.
        selector: how neurons are chosen; a file of `neurons.selectors`, or of another package.
        **parameters: of the selector. LAPE takes `k`, the share of all neurons to choose, and the
            quantiles `activity_quantile` and `selectivity_quantile`.

    Raises:
        LanguageError: an unknown language, or one under two spellings.
        MismatchError: counts of different models or sites, or filed under another language.
        LseError: no such selector, no such parameter, a value out of range, or counts among which
            the selector cannot choose.
    """
    kind = SELECTORS[selector]
    asked = kind.parameters(parameters)
    checked = CheckedCounts(counts)
    selection = kind.choose(checked, asked)
    # A selector need not read every language.
    for language in checked.keys() - checked.n_tokens:
        checked[language]
    assert checked.model is not None
    return NeuronSets(
        indices={
            language: mask_to_indices(member)
            for language, member in zip(checked, selection.member, strict=True)
        },
        model=checked.model,
        site=checked.site,
        method=kind.name,
        thresholds=dataclasses.asdict(asked) | dict(selection.thresholds),
        scores=selection.scores,
        score_name=kind.score_name,
        score_unit=kind.score_unit,
        probability=selection.probability,
        provenance=provenance(n_tokens=checked.n_tokens, corpora=checked.corpora),
    )
