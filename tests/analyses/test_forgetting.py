"""Intervals over languages and clauses."""

import numpy as np
import pytest

from analyses.forgetting import Config, clustered_interval, run
from lse_interp.core.errors import ArtifactError


def test_clustered_interval_holds_the_mean_and_is_wider_for_fewer_clusters():
    rng = np.random.default_rng(0)
    of_clause = rng.normal(size=10)
    changes = np.repeat(of_clause, 8)[None] + 0.1 * rng.normal(size=(12, 80))
    clauses = [f"c{at // 8}" for at in range(80)]
    low, high = clustered_interval(changes, clauses, n_bootstrap=500)
    assert low < changes.mean() < high
    naive_low, naive_high = clustered_interval(changes, [str(at) for at in range(80)])
    assert (high - low) > 2 * (naive_high - naive_low)


def test_clustered_interval_of_equal_changes_is_a_point():
    found = clustered_interval(np.full((3, 4), 2.0), ["a", "a", "b", "c"], n_bootstrap=50)
    assert found == (2.0, 2.0)


def test_clustered_interval_resamples_languages_too():
    changes = np.repeat(np.arange(6.0)[:, None], 4, axis=1)
    low, high = clustered_interval(changes, list("abcd"), n_bootstrap=2000)
    # The standard error of a mean of six draws from 0..5 is 1.708 / sqrt(6) = 0.70.
    assert (high - low) / 4 == pytest.approx(0.70, rel=0.1)


def test_run_without_scores_says_what_makes_them(tmp_path):
    with pytest.raises(ArtifactError, match="analyses.evaluation_results"):
        run(Config(root=tmp_path))
