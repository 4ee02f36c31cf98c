"""How close two sets of matching vectors are: cosine, its control, retrieval, intervals.

Everything is computed in float64, one layer at a time, on the device of the vectors; results are
on the CPU. Row i of `a` and row i of `b` represent the same sentence.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from lse_interp.core.errors import LseError

__all__ = ["pair_cosine", "retrieval_at_1", "shuffled_cosine"]


_ROWS_PER_CHUNK = 1024
# Cosines of equal vectors differ by rounding, depending on their place in a matrix.
_TIE = 1e-12


def pair_cosine(
    a: Float[Tensor, "layer sentence d_model"], b: Float[Tensor, "layer sentence d_model"]
) -> Float64[Tensor, "layer sentence"]:
    """Measure the cosine of every matching pair: a_i . b_i / (|a_i| |b_i|).

    >>> a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> pair_cosine(a, torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])).tolist()
    [[1.0, 0.0]]

    Args:
        a: vectors of one language.
        b: vectors of the other.

    Returns:
        Cosines in [-1, 1]; 0 if a vector is zero.

    Source: paper, section 6.2.
    """
    layers = [(_unit(x) * _unit(y)).sum(dim=-1) for x, y in zip(a, b, strict=True)]
    return torch.stack(layers).cpu()


def shuffled_cosine(
    a: Float[Tensor, "layer sentence d_model"], b: Float[Tensor, "layer sentence d_model"]
) -> Float64[Tensor, " layer"]:
    """Average the cosine over all pairs that do not match: the control for `pair_cosine`.

    Vectors of a language model share a few large directions (they are anisotropic), so any two
    sentences have a high cosine; only the part above this control says something about meaning.
    Exact, without sampling: with unit vectors â_i and b̂_j,

        mean over i != j of â_i . b̂_j  =  ((sum_i â_i) . (sum_j b̂_j) - sum_i â_i . b̂_i) / n(n-1).

    Pairs that do not match are assumed to be unrelated. If sentences are composed of shared parts
    (the embedded corpus crosses main with subordinate clauses, so of the M S - 1 sentences that do
    not match one, M - 1 + S - 1 share a clause with it), the control is too high and the gap to it
    a lower bound.

    Args:
        a: vectors of one language; at least two sentences.
        b: vectors of the other.

    Returns:
        The mean cosine per layer, in [-1, 1].

    Raises:
        LseError: fewer than two sentences.
    """
    n = a.shape[1]
    if n < 2:
        raise LseError(f"The shuffled control needs at least 2 sentences; got {n}.")
    layers = []
    for x, y in zip(a, b, strict=True):
        x, y = _unit(x), _unit(y)
        layers.append((x.sum(dim=0) @ y.sum(dim=0) - (x * y).sum()) / (n * (n - 1)))
    return torch.stack(layers).cpu()


def retrieval_at_1(
    a: Float[Tensor, "layer sentence d_model"], b: Float[Tensor, "layer sentence d_model"]
) -> Float64[Tensor, " layer"]:
    """Measure how often a sentence's nearest neighbour by cosine is its translation.

    Averaged over both directions. A tie of t candidates for nearest, the translation among them,
    counts 1/t, so vectors that are all equal score chance, 1/n, whatever their order.

    >>> a = torch.eye(2)[None]
    >>> retrieval_at_1(a, a).tolist(), retrieval_at_1(a, a.flip(1)).tolist()
    ([1.0], [0.0])

    Args:
        a: vectors of one language.
        b: vectors of the other.

    Returns:
        The share of sentences found per layer, in [0, 1]; chance is 1/n.
    """
    layers = []
    for x, y in zip(a, b, strict=True):
        x, y = _unit(x), _unit(y)
        layers.append((_hits(x, y) + _hits(y, x)).mean() / 2)
    return torch.stack(layers).cpu()


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
