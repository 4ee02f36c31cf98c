"""Paired tests: by hand, against SciPy, and under the null hypothesis."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lse_interp.core.errors import LseError
from lse_interp.core.statistics import (
    bootstrap_p_value,
    mcnemar_p_value,
    standard_error,
    wilson_interval,
)

RIGHT_OR_WRONG = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def scores(values):
    return torch.tensor(values, dtype=torch.float64)


def test_standard_error_agrees_with_scipy():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    assert standard_error(scores(values)) == pytest.approx(stats.sem(values))


def test_standard_error_of_one_value_is_unknown():
    assert math.isnan(standard_error(scores([3.0])))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy_and_is_never_a_point(counts):
    n_right, n = counts
    low, high = wilson_interval(n_right, n)
    expected = stats.binomtest(n_right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low <= n_right / n + 1e-12
    assert n_right / n - 1e-12 <= high <= 1
    assert low < high


def test_mcnemar_counts_the_questions_that_tell_models_apart():
    # Five questions only a got right, one only b; ten that both or none did.
    a = scores([100] * 5 + [0] + [100] * 6 + [0] * 4)
    b = scores([0] * 5 + [100] + [100] * 6 + [0] * 4)
    assert mcnemar_p_value(a, b) == pytest.approx(2 * (1 + 6) / 2**6)


@given(RIGHT_OR_WRONG)
def test_mcnemar_is_a_symmetric_probability(pairs):
    a, b = (scores([100.0 * right for right in column]) for column in zip(*pairs, strict=True))
    p = mcnemar_p_value(a, b)
    assert 0 < p <= 1
    assert p == mcnemar_p_value(b, a)
    assert mcnemar_p_value(a, a) == 1


def test_mcnemar_refuses_graded_scores():
    with pytest.raises(LseError, match="either right or wrong"):
        mcnemar_p_value(scores([0, 50]), scores([100, 0]))


def test_bootstrap_p_value_is_small_for_a_clear_change_and_never_zero():
    clear = scores(np.linspace(1, 2, 40).tolist())
    assert bootstrap_p_value(clear, n_bootstrap=999) == pytest.approx(2 / 1000)
    assert bootstrap_p_value(-clear, n_bootstrap=999) == pytest.approx(2 / 1000)


def test_bootstrap_p_value_without_any_change_is_one():
    assert bootstrap_p_value(torch.zeros(9, dtype=torch.float64)) == 1


def test_bootstrap_p_value_is_near_that_of_a_t_test():
    draws = np.random.default_rng(5).normal(0.3, 1.0, size=80)
    found = bootstrap_p_value(scores(draws.tolist()), n_bootstrap=20_000)
    assert found == pytest.approx(stats.ttest_1samp(draws, 0).pvalue, rel=0.3)


def test_bootstrap_p_value_seldom_rejects_under_the_null():
    rng = np.random.default_rng(0)
    p = [
        bootstrap_p_value(scores(rng.normal(size=60).tolist()), n_bootstrap=400, seed=at)
        for at in range(300)
    ]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.10


def test_bootstrap_p_value_refuses_no_resamples():
    with pytest.raises(LseError, match="at least 1; got 0"):
        bootstrap_p_value(scores([1.0]), n_bootstrap=0)
