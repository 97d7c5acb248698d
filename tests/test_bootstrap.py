"""Bootstrap intervals over clips."""

from __future__ import annotations

import numpy as np
import pytest

from hear_mwmae.bootstrap import Estimate, bootstrap_counts


def test_counts_are_samples_of_as_many_clips():
    counts = bootstrap_counts(7, 1000, seed=0)
    assert counts.shape == (1000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert counts.max() > 2


def test_intervals_cover_the_true_mean_as_often_as_they_should():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        clips = rng.exponential(size=60)
        estimate = Estimate.of(clips.mean(), bootstrap_counts(60, 300, seed) @ clips / 60)
        covered += estimate.low <= 1 <= estimate.high
    assert 0.88 < covered / 200 < 0.98  # 95 %, a little less for skewed values


def test_a_shift_of_the_draws_does_not_move_the_interval():
    draws = np.random.default_rng(0).normal(5, 1, 10_000)
    assert Estimate.of(3, draws) == pytest.approx((3, 3 - 1.96, 3 + 1.96), abs=0.1)
