"""How close two sets of matching vectors are: cosine, control, gap and retrieval per sentence.

Hidden states share a few large directions (they are anisotropic), so any two sentences have a high
cosine. So everything is measured twice: of `centred` vectors, from which the mean of their language
is taken, and of `raw` ones. Everything is computed in float64. Row i of `a` and row i of `b`
represent the same sentence, and the mean over sentences is the result.

Source: paper, section 6.2 (the raw cosine). Centring: Libovický et al., "On the Language Neutrality
of Pre-trained Multilingual Representations", 2020.
"""

from typing import Final

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from lse_interp.core.errors import LseError

__all__ = [
    "STATISTICS",
    "VECTORS",
    "centred",
    "compare_sentences",
    "pair_cosine",
    "retrieval_at_1",
    "shuffled_cosine",
]

VECTORS: Final = ("centred", "raw")
"""How vectors are read; the first leads."""

STATISTICS: Final = ("cosine", "shuffled", "gap", "retrieval")
"""What is measured of each."""

_ROWS_PER_CHUNK = 1024
# Cosines of equal vectors differ by rounding, depending on their place in a matrix.
_TIE = 1e-12


def compare_sentences(
    a: Float[Tensor, "layer sentence d_model"], b: Float[Tensor, "layer sentence d_model"]
) -> Float64[Tensor, "vectors statistic layer sentence"]:
    """Measure every statistic, of centred and of raw vectors, one layer at a time.

    Returns:
        One number per sentence, on the CPU, in the order of `VECTORS` and `STATISTICS`. The gap is
        `cosine` - `shuffled`: what matching sentences have in common beyond others.

    Raises:
        LseError: fewer than two sentences.
    """
    layers = [
        torch.stack([_statistics(centred(x), centred(y)), _statistics(x, y)])
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(layers, dim=2).cpu()


def centred(vectors: Float[Tensor, "sentence d_model"]) -> Float64[Tensor, "sentence d_model"]:
    """Take the mean over the sentences out.

    The mean is of these n sentences, not of others: a sentence is 1/n of it. So the control is not
    0 but about -cosine/(n - 1), and the gap is too high by as much. A bootstrap keeps the mean.
    """
    return vectors.double() - vectors.double().mean(dim=0)


def pair_cosine(
    a: Float[Tensor, "sentence d_model"], b: Float[Tensor, "sentence d_model"]
) -> Float64[Tensor, " sentence"]:
    """Measure the cosine of every matching pair: a_i . b_i / (|a_i| |b_i|).

    >>> a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> pair_cosine(a, torch.tensor([[3.0, 0.0], [1.0, 0.0]])).tolist()
    [1.0, 0.0]

    Args:
        a: vectors of one language.
        b: vectors of the other.

    Returns:
        Cosines in [-1, 1]; 0 if a vector is zero.

    Source: paper, section 6.2.
    """
    return (_unit(a) * _unit(b)).sum(dim=-1)


def shuffled_cosine(
    a: Float[Tensor, "sentence d_model"], b: Float[Tensor, "sentence d_model"]
) -> Float64[Tensor, " sentence"]:
    """Measure the cosine of pairs that do not match: the control for `pair_cosine`.

    With u_i the mean cosine of sentence i and all others, in both directions, the control is the
    mean u of the u_i. It is exact, without sampling: with unit vectors â_i and b̂_j,

        u_i = ((â_i . sum_j b̂_j + sum_j â_j . b̂_i) / 2 - â_i . b̂_i) / (n - 1).

    A sentence is in its own pairs and in those of others, so its share of the control is
    2 u_i - u. These shares have the mean u, and their spread is that of the control.

    Pairs that do not match are assumed to be unrelated. If sentences are composed of shared parts
    (the embedded corpus crosses main with subordinate clauses, so of the M S - 1 sentences that do
    not match one, M - 1 + S - 1 share a clause with it), the control is too high and the gap to it
    a lower bound.

    Args:
        a: vectors of one language; at least two sentences.
        b: vectors of the other.

    Returns:
        The share of each sentence, whose mean is the control.

    Raises:
        LseError: fewer than two sentences.

    Source: W. Hoeffding, "A class of statistics with asymptotically normal distribution", 1948.
    """
    if len(a) < 2:
        raise LseError(f"The shuffled control needs at least 2 sentences; got {len(a)}.")
    x, y = _unit(a), _unit(b)
    everything = (x @ y.sum(dim=0) + y @ x.sum(dim=0)) / 2
    others = (everything - (x * y).sum(dim=-1)) / (len(x) - 1)
    return 2 * others - others.mean()


def retrieval_at_1(
    a: Float[Tensor, "sentence d_model"], b: Float[Tensor, "sentence d_model"]
) -> Float64[Tensor, " sentence"]:
    """Measure whether the nearest neighbour of a sentence by cosine is its translation.

    Averaged over both directions. A tie of t candidates for nearest, the translation among them,
    counts 1/t, so vectors that are all equal score chance, 1/n, whatever their order.

    >>> a = torch.eye(2)
    >>> retrieval_at_1(a, a).tolist(), retrieval_at_1(a, a.flip(0)).tolist()
    ([1.0, 1.0], [0.0, 0.0])

    Args:
        a: vectors of one language.
        b: vectors of the other.

    Returns:
        0, 1 or between for each sentence; by chance the mean is 1/n.
    """
    x, y = _unit(a), _unit(b)
    return (_hits(x, y) + _hits(y, x)) / 2


def _statistics(
    a: Float[Tensor, "sentence d_model"], b: Float[Tensor, "sentence d_model"]
) -> Float64[Tensor, "statistic sentence"]:
    pairs, others = pair_cosine(a, b), shuffled_cosine(a, b)
    return torch.stack([pairs, others, pairs - others, retrieval_at_1(a, b)])


def _unit(
    vectors: Float[Tensor, "sentence d_model"],
) -> Float64[Tensor, "sentence d_model"]:
    return functional.normalize(vectors.double(), dim=-1)


def _hits(
    queries: Float64[Tensor, "sentence d_model"], candidates: Float64[Tensor, "sentence d_model"]
) -> Float64[Tensor, " sentence"]:
    """Give each query 1 if its own candidate is nearest, 1/t in a tie of t, else 0."""
    found = []
    for start in range(0, len(queries), _ROWS_PER_CHUNK):
        cosine = queries[start : start + _ROWS_PER_CHUNK] @ candidates.T
        own = cosine.diagonal(offset=start)[:, None]
        nearest = ~(cosine > own + _TIE).any(dim=-1)
        found.append(nearest / ((cosine - own).abs() <= _TIE).sum(dim=-1).double())
    return torch.cat(found)
