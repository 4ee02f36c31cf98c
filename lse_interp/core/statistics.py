"""Intervals, errors and tests that every measurement uses."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.core.errors import LseError

__all__ = [
    "bootstrap_interval",
    "bootstrap_p_value",
    "mantel_p_value",
    "mcnemar_p_value",
    "resampled_means",
    "standard_error",
    "wilson_interval",
]


def standard_error(values: Float64[Tensor, " document"]) -> float:
    """Estimate the standard error of the mean, s / sqrt(n); NaN for a single value.

    >>> standard_error(torch.tensor([0.0, 100.0, 0.0, 100.0], dtype=torch.float64))
    28.867513459481287
    """
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def wilson_interval(n_right: int, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Bound a proportion, also where few were counted or all are alike.

    (p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), with p = n_right / n.

    >>> [round(bound, 4) for bound in wilson_interval(0, 8)]
    [0.0, 0.3244]

    Args:
        n_right: How many of `n`.
        n: How many were counted, at least 1.
        z: Width in standard deviations of a normal distribution; 1.96 gives 95 %.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    1927.
    """
    p = n_right / n
    center, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def mcnemar_p_value(a: Float64[Tensor, " document"], b: Float64[Tensor, " document"]) -> float:
    """Test whether two models are right equally often: McNemar's test, exact and two-sided.

    Of the questions that one model alone got right, each is as likely to be either's under the
    null hypothesis, so that p is that of a binomial test with probability 1/2.

    >>> a = torch.tensor([100.0] * 6 + [0.0], dtype=torch.float64)
    >>> mcnemar_p_value(a, torch.zeros(7, dtype=torch.float64))
    0.03125

    Args:
        a: One score per question; equal to the highest value when right, to another when wrong.
        b: The other model's, on the same questions.

    Returns:
        p in (0, 1]; 1 where no question tells the models apart.

    Raises:
        LseError: more than two different scores.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", 1947.
    """
    if len(torch.cat([a, b]).unique()) > 2:
        raise LseError("McNemar's test is for questions that are either right or wrong.")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    if only_a + only_b == 0:
        return 1.0
    # Here, because it takes a second that no other test needs.
    from scipy import stats

    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def bootstrap_p_value(
    differences: Float64[Tensor, " document"], *, n_bootstrap: int = 1000, seed: int = 0
) -> float:
    """Test whether the mean of paired differences is 0, two-sided, by the bootstrap.

    p = 2 min(share of resampled means <= 0, share >= 0), each share with one added to its count
    and to n, so that p is never 0.

    Args:
        differences: One model's score less the other's, per question.
        n_bootstrap: Number of resamples, at least 1.
        seed: Of the resampling.

    Returns:
        p in (0, 1].

    Source: P. Koehn, "Statistical significance tests for machine translation evaluation", 2004.
    """
    means = resampled_means(differences, n_bootstrap=n_bootstrap, seed=seed)
    below = (int((means <= 0).sum()) + 1) / (n_bootstrap + 1)
    above = (int((means >= 0).sum()) + 1) / (n_bootstrap + 1)
    return min(1.0, 2 * min(below, above))


def bootstrap_interval(
    values: Float64[Tensor, "*batch sentence"],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch"]]:
    """Bound the mean over sentences by a percentile bootstrap.

    Sentences are drawn with replacement, the same draws in every row, and for every `values` of
    as many sentences under one seed. Sentences are taken to be independent; where they share
    clauses the interval is too narrow.

    Args:
        values: one number per sentence, in any number of rows.
        n_bootstrap: number of resamples, at least 1.
        seed: seed of the resamples.
        confidence: share of resampled means inside the interval, in (0, 1).

    Returns:
        The lower and the upper bound of each row.

    Raises:
        LseError: `n_bootstrap` or `confidence` out of range.
    """
    if not 0 < confidence < 1:
        raise LseError(
            f"`confidence` must be in (0, 1); got {confidence}. Pass a fraction, e.g. 0.95."
        )
    means = resampled_means(values, n_bootstrap=n_bootstrap, seed=seed)
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=-1)
    return low, high


def resampled_means(
    values: Float64[Tensor, "*batch sentence"], *, n_bootstrap: int, seed: int
) -> Float64[Tensor, "*batch resample"]:
    """Draw sentences with replacement, and average `values` over each draw.

    The draws depend on the number of sentences and the seed alone: every result of as many
    sentences is resampled alike.

    Args:
        values: One number per sentence, in any number of rows.
        n_bootstrap: Number of draws, at least 1.
        seed: Of the draws.

    Raises:
        LseError: `n_bootstrap` out of range.
    """
    if n_bootstrap < 1:
        raise LseError(f"`n_bootstrap` must be at least 1; got {n_bootstrap}.")
    n = values.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_bootstrap, n), generator=generator)
    times = torch.zeros(n_bootstrap, n, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    return values @ times.T / n


def mantel_p_value(
    similarity: Float64[Tensor, "lang lang"],
    related: Bool[Tensor, "lang lang"],
    *,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Test whether related pairs are more similar than other pairs, by a Mantel test.

    The statistic is the mean similarity of related pairs minus that of all other pairs. Pairs that
    share an item are not independent, so whole items are permuted, rows and columns together:
    p = (1 + permutations that reach the statistic) / (1 + permutations).

    Args:
        similarity: Symmetric and finite; the diagonal is not used.
        related: Symmetric; some pairs marked, and some not.
        n_permutations: At least 1.
        seed: At least 0.

    Returns:
        p in (0, 1].

    Source: N. Mantel, "The detection of disease clustering and a generalized regression approach",
    1967.
    """
    values = similarity.numpy()
    first, second = np.triu_indices(len(values), k=1)
    marked = related.numpy()[first, second]
    rng = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(values)), (1 + n_permutations, 1))
    orders[1:] = rng.permuted(orders[1:], axis=1)
    inside = values[orders[:, first[marked]], orders[:, second[marked]]].sum(axis=1)
    outside = values[first, second].sum() - inside
    difference = inside / marked.sum() - outside / (~marked).sum()
    # Rounding must not decide about permutations that change nothing.
    reached = difference[1:] >= difference[0] - 1e-12
    return float((1 + reached.sum()) / (1 + n_permutations))
