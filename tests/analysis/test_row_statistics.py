"""Summaries of weight changes against plain NumPy, and bits against values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.analysis.weights import row_statistics as changes
from lse_interp.analysis.weights.row_statistics import (
    N_BINS,
    QUANTILES,
    change_histogram,
    difference,
    row_changes,
)
from lse_interp.core.errors import LseError


def matrices(n_rows=7, width=5, *, seed=0, dtype=torch.float32, std=0.1):
    random = torch.Generator().manual_seed(seed)
    before = torch.randn(n_rows, width, generator=random, dtype=torch.float64)
    after = before + std * torch.randn(n_rows, width, generator=random, dtype=torch.float64)
    return before.to(dtype), after.to(dtype)


def reference(before, after, rows):
    """Everything in float64 at once, with NumPy's own quantiles."""
    old, new = (tensor.double().numpy()[rows] for tensor in (before, after))
    change = new - old
    return {
        "norms": np.array([np.linalg.norm(row) for row in change]),
        "quantiles": np.quantile(change, QUANTILES),
        "mean": change.mean(),
        "std": change.std(),
        "base_l2": np.linalg.norm(old),
        "dot": np.sum(change * old),
        "n_changed": np.sum(old != new),
    }


def test_row_changes_by_hand():
    before = torch.tensor([[1.0, 2.0], [9.0, 9.0], [0.0, 3.0]])
    after = torch.tensor([[4.0, 6.0], [1.0, 1.0], [0.0, 2.0]])
    found = row_changes(before, after, neurons=torch.tensor([0, 2]))
    # The changes are 3, 4, 0, -1.
    assert found.norms.tolist() == [5.0, 1.0]
    assert (found.mean, found.n_changed) == (1.5, 3)
    assert found.std == pytest.approx(17**0.5 / 2)
    assert found.base_l2 == pytest.approx(14**0.5)
    assert found.dot == 1 * 3 + 2 * 4 + 3 * -1
    assert found.quantiles[[0, 5, -1]].tolist() == [-1.0, 1.5, 4.0]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    data=st.data(),
)
def test_row_changes_agrees_with_numpy(seed, shape, dtype, data):
    before, after = matrices(*shape, seed=seed, dtype=dtype)
    rows = sorted(data.draw(st.sets(st.integers(0, shape[0] - 1), min_size=1)))
    found = row_changes(before, after, neurons=torch.tensor(rows))
    # A float32 change of two float32 weights near 1 is rounded by 6e-8 at most.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for name, expected in reference(before, after, rows).items():
        np.testing.assert_allclose(
            getattr(found, name), expected, rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_summaries_do_not_depend_on_the_chunks(monkeypatch):
    before, after = matrices(23, 6, dtype=torch.float64)
    after[5, 2] = before[5, 2]
    rows = torch.arange(0, 23, 2)

    def measure():
        summary = row_changes(before, after, neurons=rows)
        counts = change_histogram(before, after, neurons=rows, limit=0.2)
        return summary, counts, difference(before, after, rows=rows)

    whole = measure()
    monkeypatch.setattr(changes, "_ENTRIES_PER_CHUNK", 12)
    for a, b in zip(whole, measure(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), power=st.integers(-3, 3))
def test_row_changes_scale_with_the_weights(seed, power):
    before, after = matrices(seed=seed)
    rows, scale = torch.arange(7), 2.0**power
    once = row_changes(before, after, neurons=rows)
    scaled = row_changes(scale * before, scale * after, neurons=rows)
    # A power of two changes no rounding.
    assert torch.equal(scaled.quantiles, scale * once.quantiles)
    assert torch.equal(scaled.norms, scale * once.norms)
    assert (scaled.std, scaled.mean) == (scale * once.std, scale * once.mean)


def test_row_changes_keeps_a_small_spread_around_a_large_mean():
    before = torch.zeros(1, 2, dtype=torch.float64)
    after = torch.tensor([[1e8, 1e8 + 1]], dtype=torch.float64)
    assert row_changes(before, after, neurons=torch.tensor([0])).std == pytest.approx(0.5)


def test_row_changes_of_no_rows():
    before, after = matrices()
    found = row_changes(before, after, neurons=torch.tensor([], dtype=torch.int64))
    assert found.quantiles.isnan().all()
    assert np.isnan([found.mean, found.std]).all()
    assert (len(found.norms), found.base_l2, found.n_changed) == (0, 0.0, 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_row_changes_refuses_values_that_are_not_finite(value):
    before, after = matrices()
    after[3, 1] = value
    with pytest.raises(LseError, match="change holds values that are not finite"):
        row_changes(before, after, neurons=torch.arange(7))


def test_change_histogram_counts_as_numpy_and_leaves_out_what_lies_beyond():
    before, after = matrices(40, 20, dtype=torch.float64)
    rows = torch.arange(1, 40, 3)
    counts = change_histogram(before, after, neurons=rows, limit=0.15)
    change = (after - before)[rows].flatten().numpy()
    edges = np.linspace(-0.15, 0.15, N_BINS + 1)
    expected = [np.sum((change >= edges[i]) & (change < edges[i + 1])) for i in range(N_BINS)]
    assert counts.tolist() == expected
    assert counts.sum() == np.sum(np.abs(change) <= 0.15) < len(change)


def test_difference_sees_bits_where_values_agree():
    zeros = torch.tensor([0.0, 1.0, torch.nan])
    assert difference(zeros, torch.tensor([-0.0, 1.0, torch.nan])) == (3, 1, 0.0, 0.0)
    assert difference(zeros, zeros.clone()) == (3, 0, 0.0, 0.0)


def test_difference_of_two_dtypes_compares_values():
    narrow = torch.randn(5, 3).bfloat16()
    wide = narrow.float()
    assert difference(narrow, wide).n_changed == 0
    wide[2, 2] += 2.0**-20
    assert difference(narrow, wide)[:2] == (15, 1)


def test_difference_of_some_rows_and_of_any_shape():
    before, after = matrices(dtype=torch.float64)
    found = difference(before, after, rows=torch.tensor([1, 4]))
    change = (after - before)[[1, 4]].numpy()
    assert found == (10, 10, pytest.approx(np.linalg.norm(change)), np.abs(change).max())
    assert difference(torch.ones(()), torch.zeros(())) == (1, 1, 1.0, 1.0)
    cube = torch.ones(2, 3, 4)
    assert difference(cube, 2 * cube) == (24, 24, pytest.approx(24**0.5), 1.0)


def test_difference_refuses_values_that_are_not_finite():
    with pytest.raises(LseError, match="not finite, as one of the models does"):
        difference(torch.zeros(3), torch.tensor([0.0, torch.nan, 1.0]))
