"""What a selector reads and returns."""

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import by_code
from lse_interp.core.progress import progress
from lse_interp.counting.counts import ActivationCounts
from lse_interp.models.info import ModelInfo

__all__ = ["CheckedCounts", "Selection", "activation_probabilities"]


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


# Not of `str, ActivationCounts`: the type checks of the tests would then read an item.
class CheckedCounts(Mapping):
    """Counts by language, read on access; those that do not belong together are refused.

    Raises:
        LanguageError: An unknown language, or one under two spellings.
        MismatchError: On access: counts of another model or site than those read before, or filed
            under another language.
    """

    def __init__(self, counts: Mapping[str, ActivationCounts]) -> None:
        self._counts = counts
        self._spellings = by_code({spelling: spelling for spelling in counts})
        self.model: ModelInfo | None = None
        self.site: str | None = None
        self.n_tokens: dict[str, int] = {}
        self.corpora: dict[str, str | None] = {}

    def __getitem__(self, language: str) -> ActivationCounts:
        found = self._counts[self._spellings[language]]
        if found.language != language:
            raise MismatchError(
                f"Counts filed under {language} are of {found.language}. File them by their own "
                "code."
            )
        if self.model is None:
            self.model, self.site = found.model, found.site
        self.model.require_same(found.model, what=f"Counts of {language}")
        if self.site != found.site:
            raise MismatchError(
                f"Counts of different sites cannot be compared: {next(iter(self.n_tokens))} at "
                f"{self.site}, {language} at {found.site}. Count all languages at one site."
            )
        self.n_tokens[language] = found.n_tokens
        self.corpora[language] = found.provenance.get("settings", {}).get("corpus")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._spellings)

    def __len__(self) -> int:
        return len(self._counts)


def activation_probabilities(counts: CheckedCounts) -> Float64[Tensor, "lang layer neuron"]:
    """Stack the probabilities of all languages, reading the counts of one language at a time.

    Raises:
        LseError: No language.
    """
    probability: Tensor | None = None
    each = progress(counts.values(), "reading counts", total=len(counts), unit="language")
    for position, found in enumerate(each):
        if probability is None:
            # Allocated once: stacking at the end would need the memory twice.
            shape = (len(counts), found.model.n_layers, found.model.d_mlp)
            probability = torch.empty(shape, dtype=torch.float64)
        probability[position] = found.probability
    if probability is None:
        raise LseError("Choosing neurons needs activation counts; got none.")
    return probability
