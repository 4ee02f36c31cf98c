"""The rule behind LAPE: entropy over languages, thresholds, and who gets which neuron."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.core.errors import LseError

__all__ = ["Selection", "check_n_languages", "check_parameters", "lape_scores", "select"]


class Selection(NamedTuple):
    """What `select` decides."""

    member: Bool[Tensor, "lang layer neuron"]
    """Whether a neuron belongs to a language."""
    lape: Float64[Tensor, "layer neuron"]
    """Entropy in nats."""
    thresholds: dict[str, float]
    """`k`, both quantiles, and the probabilities they came to: `activity`, `selectivity`."""


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
    probability: Float64[Tensor, "lang layer neuron"],
    *,
    k: float = 0.05,
    activity_quantile: float = 0.95,
    selectivity_quantile: float = 0.95,
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
        k: share of all neurons to choose, in (0, 1].
        activity_quantile: in (0, 1).
        selectivity_quantile: in (0, 1).

    Raises:
        LseError: fewer than two languages, a parameter out of range, a probability that is not in
            [0, 1], or `k` above the eligible share.

    Source: paper, section 3.1. The paper writes >= for both conditions; the strict > is that of
    the released code.
    """
    check_parameters(
        k=k, activity_quantile=activity_quantile, selectivity_quantile=selectivity_quantile
    )
    _check_probability(probability)
    activity, selectivity = _quantiles(probability, (activity_quantile, selectivity_quantile))
    lape = lape_scores(probability)
    eligible = probability.amax(dim=0) > activity
    chosen = _lowest(lape, eligible=eligible, k=k, activity=activity)
    thresholds = {
        "k": k,
        "activity_quantile": activity_quantile,
        "activity": activity,
        "selectivity_quantile": selectivity_quantile,
        "selectivity": selectivity,
    }
    return Selection((probability > selectivity) & chosen, lape, thresholds)


def check_n_languages(n_languages: int) -> None:
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
    lape: Float64[Tensor, "layer neuron"],
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
    order = lape.flatten()[candidates].round(decimals=12).argsort(stable=True)
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


def check_parameters(*, k: float, activity_quantile: float, selectivity_quantile: float) -> None:
    """Refuse a share or a quantile that is out of range.

    Raises:
        LseError: names the parameter.
    """
    if not 0 < k <= 1:
        raise LseError(f"`k` must be in (0, 1]; got {k}. Pass a fraction, e.g. 0.05.")
    for name, value in (
        ("activity_quantile", activity_quantile),
        ("selectivity_quantile", selectivity_quantile),
    ):
        if not 0 < value < 1:
            raise LseError(f"`{name}` must be in (0, 1); got {value}. Pass a fraction, e.g. 0.95.")


def _check_probability(probability: Float64[Tensor, "lang layer neuron"]) -> None:
    check_n_languages(len(probability))
    low, high = (float(value) for value in probability.aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN, which aminmax propagates
        raise LseError(f"A probability must be in [0, 1]; found {low} to {high}.")
