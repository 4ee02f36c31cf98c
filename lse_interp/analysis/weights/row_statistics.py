"""Summaries of how one weight matrix differs from another: moments, quantiles, bits.

Everything is summed in float64, some rows at a time, so that a matrix of 14336 x 4096 needs one
float32 copy of its change and no more. Results are on the CPU.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from lse_interp.core.errors import LseError

__all__ = [
    "N_BINS",
    "QUANTILES",
    "Difference",
    "RowChanges",
    "change_histogram",
    "difference",
    "row_changes",
]

QUANTILES: tuple[float, ...] = (0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1)
"""The quantiles kept of every change: enough for a box, its whiskers and the extremes."""

N_BINS = 101
"""Bins of a histogram; odd, so that no change lies in the middle of one."""

_ENTRIES_PER_CHUNK = 1 << 22
_NOT_FINITE = (
    "The change holds values that are not finite, as one of the models does. Take weights from "
    "before the training diverged."
)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class RowChanges(NamedTuple):
    """How chosen rows of a matrix changed.

    Attributes:
        norms: L2 norm of the change of each row.
        quantiles: Of the change of single entries, at `QUANTILES`; NaN without rows.
        mean: Mean change of an entry; NaN without rows.
        std: Population standard deviation of the change of an entry; NaN without rows.
        base_l2: L2 norm of the rows before.
        dot: Inner product of the change with the rows before.
        n_changed: Entries that are not bit for bit the same.
    """

    norms: Float64[Tensor, " _neuron"]
    quantiles: Float64[Tensor, " quantile"]
    mean: float
    std: float
    base_l2: float
    dot: float
    n_changed: int


class Difference(NamedTuple):
    """How far two tensors are apart.

    Attributes:
        n_entries: Entries of each.
        n_changed: Entries that are not bit for bit the same.
        l2: L2 norm of the difference.
        max_abs: Largest absolute difference; 0 for empty tensors.
    """

    n_entries: int
    n_changed: int
    l2: float
    max_abs: float


def row_changes(
    before: Float[Tensor, "neuron d_model"],
    after: Float[Tensor, "neuron d_model"],
    *,
    neurons: Int64[Tensor, " _neuron"],
) -> RowChanges:
    """Summarise the change `after` - `before` of some rows.

    The change is taken in float32 (float64 for float64 weights). Quantiles are interpolated
    linearly between neighbours.

    >>> before, after = torch.zeros(3, 2), torch.tensor([[3.0, 4.0], [9.0, 9.0], [0.0, 0.0]])
    >>> found = row_changes(before, after, neurons=torch.tensor([0, 2]))
    >>> found.norms.tolist(), found.mean, found.n_changed
    ([5.0, 0.0], 1.75, 2)

    Args:
        before: one row per neuron.
        after: the same rows afterwards.
        neurons: the rows to look at.

    Raises:
        LseError: a change that is not finite.
    """
    n_entries = len(neurons) * before.shape[1]
    change = torch.empty(len(neurons), before.shape[1], dtype=_wide(before, after))
    squares, total, base_square, dot, n_changed = [], 0.0, 0.0, 0.0, 0
    for at, old, new in _chunks(before, after, neurons):
        part = _change(old, new)
        change[at : at + len(part)] = part
        part, old_wide = part.double(), old.double()
        squares.append(part.square().sum(dim=-1).cpu())
        total += part.sum().item()
        base_square += old_wide.square().sum().item()
        dot += (part * old_wide).sum().item()
        n_changed += int(_differs(old, new).sum())
    if not np.isfinite(total):
        raise LseError(_NOT_FINITE)
    mean = total / n_entries if n_entries else float("nan")
    return RowChanges(
        norms=torch.cat(squares).sqrt() if squares else torch.zeros(0, dtype=torch.float64),
        mean=mean,
        std=_std(change, mean),
        # The last use of `change`, which is sorted in place.
        quantiles=_quantiles_(change),
        base_l2=base_square**0.5,
        dot=dot,
        n_changed=n_changed,
    )


def change_histogram(
    before: Float[Tensor, "neuron d_model"],
    after: Float[Tensor, "neuron d_model"],
    *,
    neurons: Int64[Tensor, " _neuron"],
    limit: float,
) -> Int64[Tensor, " bin"]:
    """Count the changes of single entries in `N_BINS` equal bins from -limit to limit.

    Changes beyond are not counted. A bin includes its lower edge, the last one both.

    Args:
        before: one row per neuron.
        after: the same rows afterwards.
        neurons: the rows to look at.
        limit: end of the last bin, above 0.
    """
    counts = np.zeros(N_BINS, dtype=np.int64)
    for _, old, new in _chunks(before, after, neurons):
        change = _change(old, new).double().cpu().numpy()
        counts += np.histogram(change, bins=N_BINS, range=(-limit, limit))[0]
    return torch.from_numpy(counts)


def difference(
    before: Float[Tensor, "*shape"],
    after: Float[Tensor, "*shape"],
    *,
    rows: Int64[Tensor, " _row"] | None = None,
) -> Difference:
    """Say how far two tensors are apart, in bits and in size.

    >>> difference(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]))
    Difference(n_entries=2, n_changed=1, l2=2.0, max_abs=2.0)

    Args:
        before: a tensor.
        after: another of the same shape.
        rows: indices along the first axis; all where None.

    Raises:
        LseError: a difference that is not finite.
    """
    if before.dim() < 2:
        before, after = before.reshape(-1, 1), after.reshape(-1, 1)
    rows = torch.arange(len(before)) if rows is None else rows
    n_entries = n_changed = 0
    square = max_abs = 0.0
    for _, old, new in _chunks(before, after, rows):
        n_entries += old.numel()
        differs = _differs(old, new)
        found = int(differs.sum())
        n_changed += found
        # Most of a model is equal bits, which need no subtraction.
        if found:
            change = _change(old[differs], new[differs]).double()
            square += change.square().sum().item()
            max_abs = max(max_abs, change.abs().max().item())
    if not np.isfinite(square):
        raise LseError(_NOT_FINITE)
    return Difference(n_entries=n_entries, n_changed=n_changed, l2=square**0.5, max_abs=max_abs)


def _chunks(
    before: Shaped[Tensor, "..."], after: Shaped[Tensor, "..."], rows: Int64[Tensor, " _row"]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield where a chunk begins, and its rows before and after, on the device of `before`."""
    n_rows = max(1, _ENTRIES_PER_CHUNK // max(1, before[:1].numel()))
    for at in range(0, len(rows), n_rows):
        index = rows[at : at + n_rows]
        new = after[index.to(after.device)].to(before.device)
        yield at, before[index.to(before.device)], new


def _wide(before: Shaped[Tensor, "..."], after: Shaped[Tensor, "..."]) -> torch.dtype:
    return torch.promote_types(_common(before, after), torch.float32)


def _common(before: Shaped[Tensor, "..."], after: Shaped[Tensor, "..."]) -> torch.dtype:
    return torch.promote_types(before.dtype, after.dtype)


def _change(old: Shaped[Tensor, "*shape"], new: Shaped[Tensor, "*shape"]) -> Tensor:
    dtype = _wide(old, new)
    return new.to(dtype) - old.to(dtype)


def _differs(
    old: Shaped[Tensor, "*shape"], new: Shaped[Tensor, "*shape"]
) -> Bool[Tensor, "*shape"]:
    """Compare bits; widening to a common dtype keeps different values different."""
    dtype = _common(old, new)
    integer = _INTEGERS[dtype.itemsize]
    return torch.ne(*(tensor.to(dtype).contiguous().view(integer) for tensor in (old, new)))


def _std(change: Float[Tensor, "_neuron d_model"], mean: float) -> float:
    """Take squares around the mean: a second pass, as the mean may be far larger than they are."""
    if not change.numel():
        return float("nan")
    parts = change.flatten().split(_ENTRIES_PER_CHUNK)
    square = sum((part.double() - mean).square().sum().item() for part in parts)
    return (square / change.numel()) ** 0.5


def _quantiles_(change: Float[Tensor, "_neuron d_model"]) -> Float64[Tensor, " quantile"]:
    """Interpolate the quantiles; reorders `change`. torch.quantile stops at 16 million entries."""
    values = change.flatten().numpy()
    if not len(values):
        return torch.full((len(QUANTILES),), torch.nan, dtype=torch.float64)
    places = np.asarray(QUANTILES) * (len(values) - 1)
    low, high = np.floor(places).astype(np.int64), np.ceil(places).astype(np.int64)
    values.partition(np.unique(np.concatenate([low, high])))
    below, above = values[low].astype(np.float64), values[high].astype(np.float64)
    return torch.from_numpy(below + (places - low) * (above - below))
