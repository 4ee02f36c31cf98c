"""LAPE: entropy over languages, thresholds, and which language gets which neuron.

Low entropy means that few languages use a neuron.

Source: paper, section 3.1, and the method's released code where the paper leaves room: both
thresholds are quantiles of all layer x neuron x language probabilities, compared with a strict >.
"""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.core.errors import LseError
from lse_interp.neurons.selection import CheckedCounts, Selection, activation_probabilities
from lse_interp.neurons.selectors import SELECTORS, Selector

__all__ = ["Parameters", "choose", "lape_scores", "select"]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How many neurons LAPE chooses, and how active they must be.

    Raises:
        LseError: A share or a quantile out of range.
    """

    k: float = 0.05
    """Share of all neurons to choose, in (0, 1]."""
    activity_quantile: float = 0.95
    """A neuron is eligible if some language uses it more often than this share of all
    (neuron, language) pairs; in (0, 1)."""
    selectivity_quantile: float = 0.95
    """A chosen neuron belongs to every language that uses it more often than this share of all
    pairs; in (0, 1)."""

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise LseError(f"`k` must be in (0, 1]; got {self.k}. Pass a fraction, e.g. 0.05.")
        for name in ("activity_quantile", "selectivity_quantile"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise LseError(
                    f"`{name}` must be in (0, 1); got {value}. Pass a fraction, e.g. 0.95."
                )


def choose(counts: CheckedCounts, parameters: Parameters) -> Selection:
    """Choose neurons by the activation probabilities of at least two languages; see `select`."""
    _check_n_languages(len(counts))
    return select(activation_probabilities(counts), parameters)


def lape_scores(
    probability: Float64[Tensor, "lang layer neuron"],
) -> Float64[Tensor, "layer neuron"]:
    """Score how evenly languages share each neuron.

    LAPE = - sum_k q[k] log q[k], with q[k] = p[k] / sum_l p[l] and 0 log 0 = 0.

    Args:
        probability: p, share of tokens at which the neuron is active, in [0, 1].

    Returns:
        Entropy in nats, from 0 (one language alone) to log(number of languages); inf for a neuron
        that no language activates, since it has no distribution to speak of.

    Source: paper, section 3.1.

    >>> lape_scores(torch.tensor([[[0.5, 0.2, 0.0]], [[0.5, 0.0, 0.0]]]).double()).exp()
    tensor([[2., 1., inf]], dtype=torch.float64)
    """
    scores = torch.empty(probability.shape[1:], dtype=torch.float64)
    # Layer by layer: temporaries of the size of one layer instead of the whole model.
    for layer, p in enumerate(probability.unbind(dim=1)):
        total = p.sum(dim=0)
        entropy = torch.special.entr(p / total).sum(dim=0)
        scores[layer] = torch.where(total > 0, entropy, torch.inf)
    return scores


def select(
    probability: Float64[Tensor, "lang layer neuron"], parameters: Parameters | None = None
) -> Selection:
    """Choose the language neurons and say which language each belongs to.

    1. Thresholds: the value of rank round(q N) among all N probabilities, for both quantiles q.
    2. Eligible: neurons whose highest probability is above the activity threshold.
    3. Chosen: the round(k * layers * neurons) eligible neurons of lowest LAPE; ties (within 1e-12
       nats) go to the lower layer, then the lower index.
    4. A chosen neuron belongs to every language whose probability is above the selectivity
       threshold.

    With `selectivity_quantile` <= `activity_quantile` every chosen neuron belongs to some
    language, so the union of all sets has round(k * layers * neurons) neurons. With a higher one,
    some chosen neurons may belong to none.

    Args:
        probability: share of tokens at which the neuron is active, in [0, 1].
        parameters: by default those of the paper.

    Raises:
        LseError: fewer than two languages, a probability that is not in [0, 1], or `k` above the
            eligible share.

    Source: paper, section 3.1. The paper writes >= for both conditions; the strict > is that of
    the released code.
    """
    rule = parameters or Parameters()
    _check_probability(probability)
    quantiles = (rule.activity_quantile, rule.selectivity_quantile)
    activity, selectivity = _quantiles(probability, quantiles)
    scores = lape_scores(probability)
    eligible = probability.amax(dim=0) > activity
    chosen = _lowest(scores, eligible=eligible, k=rule.k, activity=activity)
    return Selection(
        member=(probability > selectivity) & chosen,
        scores=scores,
        thresholds={"activity": activity, "selectivity": selectivity},
        probability=probability,
    )


def _check_n_languages(n_languages: int) -> None:
    """Refuse fewer than two languages: LAPE compares them."""
    if n_languages < 2:
        raise LseError(
            f"LAPE compares languages and needs at least 2; got {n_languages}. Count activations "
            "in another language first."
        )


def _quantiles(
    probability: Float64[Tensor, "lang layer neuron"], quantiles: Sequence[float]
) -> list[float]:
    # np.partition on one flat copy: torch.quantile refuses more than 16M elements.
    flat = probability.flatten().numpy().copy()
    ranks = [max(1, round(q * len(flat))) for q in quantiles]
    flat.partition([rank - 1 for rank in set(ranks)])
    return [float(flat[rank - 1]) for rank in ranks]


def _lowest(
    scores: Float64[Tensor, "layer neuron"],
    *,
    eligible: Bool[Tensor, "layer neuron"],
    k: float,
    activity: float,
) -> Bool[Tensor, "layer neuron"]:
    candidates = eligible.flatten().nonzero().flatten()
    n_all, n_chosen = eligible.numel(), round(k * eligible.numel())
    _check_room(k=k, n_chosen=n_chosen, n_eligible=len(candidates), n_all=n_all, activity=activity)
    # Rounded, so that the last bits of a vectorised log, which differ between processors, do not
    # decide; candidates ascend by (layer, neuron), so a stable sort breaks ties in that order.
    order = scores.flatten()[candidates].round(decimals=12).argsort(stable=True)
    chosen = torch.zeros(n_all, dtype=torch.bool)
    chosen[candidates[order[:n_chosen]]] = True
    return chosen.view_as(eligible)


def _check_room(*, k: float, n_chosen: int, n_eligible: int, n_all: int, activity: float) -> None:
    if n_chosen == 0:
        raise LseError(
            f"`k` = {k} of {n_all} neurons is less than one neuron. Pass at least {1 / n_all:.2g}."
        )
    if n_chosen > n_eligible:
        largest = int(1e4 * n_eligible / n_all) / 1e4
        raise LseError(
            f"`k` = {k} asks for {n_chosen} of {n_all} neurons, but only {n_eligible} "
            f"({n_eligible / n_all:.4f}) are eligible: active above {activity:.4g} in some "
            f"language. The largest possible `k` is {largest}; lower `k` or `activity_quantile`."
        )


def _check_probability(probability: Float64[Tensor, "lang layer neuron"]) -> None:
    _check_n_languages(len(probability))
    low, high = (float(value) for value in probability.aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN, which aminmax propagates
        raise LseError(f"A probability must be in [0, 1]; found {low} to {high}.")


SELECTORS.register("lape")(
    Selector(
        name="lape",
        title="Language Activation Probability Entropy",
        score_name="lape",
        score_unit="nats",
        about=(
            "Language Activation Probability Entropy (LAPE): with p[k] the share of tokens of "
            "language k at which a neuron is active (value > 0) and q[k] = p[k] / sum of p over "
            "languages, its score is - sum of q[k] log q[k]. Chosen are the neurons of lowest "
            "score among those that some language uses often; each belongs to every language that "
            "uses it often. The scores depend on the whole set of languages."
        ),
        Parameters=Parameters,
        choose=choose,
        thresholds={
            "k": "share of all neurons that were chosen",
            "activity_quantile": "share of all probabilities below the bar for being eligible",
            "activity": "that quantile: the bar some language must pass",
            "selectivity_quantile": (
                "share of all probabilities below the bar for belonging to a language"
            ),
            "selectivity": "that quantile: the bar the language itself must pass",
        },
        citation="""\
@misc{tang2024language,
  title  = {Language-Specific Neurons: The Key to Multilingual Capabilities in Large Language
            Models},
  author = {Tang, Tianyi and Luo, Wenyang and Huang, Haoyang and Zhang, Dongdong and Wang, Xiaolei
            and Zhao, Xin and Wei, Furu and Wen, Ji-Rong},
  year   = {2024},
  eprint = {2402.16438},
  archivePrefix = {arXiv}
}""",
    )
)
