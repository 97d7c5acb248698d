"""Intervals over clips, and the permutation test of windows."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from hear_mwmae.analysis.resampling import Estimate, bootstrap_counts, spread, window_difference, window_effect

WINDOWS = (2, 5, 0, 0)


def test_bootstrap_counts_are_samples_of_as_many_clips():
    counts = bootstrap_counts(7, 1000, seed=0)
    assert counts.shape == (1000, 7) and (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1) and counts.max() > 2


def test_intervals_cover_the_true_mean_as_often_as_they_should():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        clips = rng.exponential(size=(60, 1, 1))
        mean, draws = spread(clips, bootstrap_counts(60, 300, seed))["mean"]
        estimate = Estimate.of(mean, draws)
        covered += estimate.low <= 1 <= estimate.high
    assert 0.88 < covered / 200 < 0.98  # 95 %, a little less for skewed values


def test_a_shift_of_the_draws_does_not_move_the_interval():
    draws = np.random.default_rng(0).normal(5, 1, 10_000)
    assert Estimate.of(3, draws) == pytest.approx((3, 3 - 1.96, 3 + 1.96), abs=0.1)


def test_spread_of_heads():
    heads = np.array([[[1.0, 3.0], [5.0, 5.0]], [[1.0, 3.0], [5.0, 7.0]]])  # (clips, blocks, heads); means 1 3 / 5 6
    found = spread(heads, np.array([[2, 0], [1, 1]]))
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(
        {"mean": 3.75, "SD over all heads": np.std([1, 3, 5, 6]), "mean SD within blocks": 0.75, "range": 5}
    )
    assert found["range"][1].tolist() == [4, 5] and found["mean SD within blocks"][1].tolist() == [0.5, 0.75]


def test_permutation_test_agrees_with_all_deals_of_the_windows():
    similarity = np.random.default_rng(3).random((4, 4)) + 0.3 * np.equal.outer(WINDOWS, WINDOWS)
    true = window_difference(similarity, WINDOWS)
    deals = [similarity[:, list(order)] for order in permutations(range(4))]
    exact = np.mean([window_difference(deal, WINDOWS) >= true - 1e-9 for deal in deals])
    found = window_effect({(0, 1): similarity}, WINDOWS, 20_000, seed=0)
    assert found.p == pytest.approx(exact, abs=0.02) and 0.01 < exact < 0.5
    assert found.difference == pytest.approx(true)
    equal = np.equal.outer(WINDOWS, WINDOWS)
    assert (found.equal, found.unequal) == pytest.approx((similarity[equal].mean(), similarity[~equal].mean()))


def test_windows_that_matter_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    windows = (2, 5, 10, 25, 50, 125, 0, 0)
    pairs = [(a, b) for b in range(4) for a in range(b)]
    planted = {pair: 0.5 * np.equal.outer(windows, windows) + 0.2 * rng.random((8, 8)) for pair in pairs}
    found = window_effect(planted, windows, 5000, seed=0)
    assert found.p == pytest.approx(1 / 5001) and found.superiority == 1 and found.difference == pytest.approx(0.5, abs=0.05)
    p_values = [window_effect({pair: rng.random((8, 8)) for pair in pairs}, windows, 200, seed).p for seed in range(60)]
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.12) and np.mean(np.array(p_values) < 0.1) < 0.25
    assert window_effect({(0, 1): np.ones((8, 8))}, windows, 100, seed=0)[2:] == (0.5, 1.0)
