"""PWCCA and linear CKA: known answers, a slow reference, noise."""

from __future__ import annotations

import numpy as np
import pytest

from hear_mwmae.analysis.similarity import compare, compare_across, decompose, linear_cka, null_level, pwcca
from hear_mwmae.errors import HearMwmaeError


def reference(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """PWCCA and the canonical correlations, from the formulas of Morcos et al. through numpy's SVD
    of covariances.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)

    def inverse_root(covariance: np.ndarray) -> np.ndarray:
        u, s, vt = np.linalg.svd(covariance)
        kept = s > 1e-12 * s[0]
        return u[:, kept] / np.sqrt(s[kept]) @ vt[kept]

    rank = min(np.linalg.matrix_rank(x), np.linalg.matrix_rank(y))
    whiten_x, whiten_y = inverse_root(x.T @ x), inverse_root(y.T @ y)
    u, rho, _ = np.linalg.svd(whiten_x @ (x.T @ y) @ whiten_y)
    alphas = []
    for i in range(rank):
        h = x @ whiten_x @ u[:, i]
        alphas.append(sum(abs(h @ x[:, j]) for j in range(x.shape[1])))
    return float(np.array(alphas) @ rho[:rank] / sum(alphas)), rho[:rank]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def related(rng: np.random.Generator, samples: int, p: int, q: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Activations whose directions are of different sizes, not centred, with a common part."""
    common = rng.standard_normal((samples, 4))
    scales = np.geomspace(10, 0.1, max(p, q))
    x = (common @ rng.standard_normal((4, p)) + noise * rng.standard_normal((samples, p))) * scales[:p] + 3
    y = (common @ rng.standard_normal((4, q)) + noise * rng.standard_normal((samples, q))) * scales[:q] - 1
    return x, y


@pytest.mark.parametrize(("p", "q"), [(8, 8), (12, 5), (5, 12), (1, 3)])
def test_pwcca_is_that_of_the_formulas(rng, p, q):
    x, y = related(rng, 300, p, q)
    assert pwcca(x, y) == pytest.approx(reference(x, y)[0], abs=1e-8)
    assert pwcca(y, x) == pytest.approx(reference(y, x)[0], abs=1e-8)
    if min(p, q) > 1:
        assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-4  # the weights are those of the first argument


def test_invertible_linear_maps_change_nothing(rng):
    x = rng.standard_normal((500, 10)) * np.geomspace(1, 1e-3, 10)
    y = x @ rng.standard_normal((10, 10)) + rng.standard_normal(10)
    assert pwcca(x, y) == pytest.approx(1, abs=1e-9) and pwcca(y, x) == pytest.approx(1, abs=1e-9)
    other = related(rng, 500, 10, 6)[1]
    assert pwcca(other, x) == pytest.approx(pwcca(other, y), abs=1e-9)  # other's weights, whatever x's coordinates
    assert linear_cka(x, y) < 0.99  # CKA is invariant to rotations and scale only
    rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-9)


def test_cka_is_that_of_the_formula(rng):
    x, y = related(rng, 200, 7, 4)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.linalg.norm
    assert linear_cka(x, y) == pytest.approx(norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b)), abs=1e-10)


def test_independent_noise_is_at_its_expectation(rng):
    """Canonical correlations of independent normal noise are those of random subspaces, drawn here
    without any activations.
    """
    samples, p, q = 400, 12, 8

    def subspace(width: int) -> np.ndarray:
        return np.linalg.qr(rng.standard_normal((samples - 1, width)))[0]  # one dimension less: centred

    expected = []
    for _ in range(200):
        a, b = subspace(p), subspace(q)
        u, rho, _ = np.linalg.svd(a.T @ b, full_matrices=False)
        # White noise has loadings without a direction: the weights are those of a random basis.
        alphas = np.abs(u.T @ rng.standard_normal((p, p))).sum(axis=1)
        expected.append(alphas @ rho / alphas.sum())
    found = null_level(samples, (p, q), draws=200)
    error = np.std(expected) / np.sqrt(200) * np.sqrt(2)
    assert found == pytest.approx(np.mean(expected), abs=4 * error) and error < 0.003
    assert found > 0.05  # not zero: it has to be told beside any similarity
    assert null_level(40 * samples, (p, q), draws=5) < found / 4


def test_added_noise_dimensions_lower_the_mean_but_not_svcca_nor_pwcca(rng):
    """Raghu et al. and Morcos et al.: directions of little variance that are noise hide a common
    signal from plain CCA.
    """
    samples, signal, noise = 2000, 10, 40
    common = rng.standard_normal((samples, signal))
    x = np.concatenate([common, 0.01 * rng.standard_normal((samples, noise))], axis=1)
    y = np.concatenate([common @ rng.standard_normal((signal, signal)), 0.01 * rng.standard_normal((samples, noise))], axis=1)

    def truncated(z: np.ndarray) -> np.ndarray:
        """SVCCA's first step: directions of 99 % of the variance."""
        u, s, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
        kept = np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.99) + 1
        return u[:, :kept] * s[:kept]

    mean_cca = reference(x, y)[1].mean()
    svcca = reference(truncated(x), truncated(y))[1].mean()
    assert svcca > 0.98 and mean_cca < 0.4
    assert pwcca(x, y) > 0.9
    assert pwcca(x, y) > mean_cca + 0.5


def test_directions_that_are_not_there(rng):
    x, y = related(rng, 300, 6, 6)
    copies = np.concatenate([x, x @ rng.standard_normal((6, 3)), np.full((300, 2), 0.1)], axis=1)  # rank 6 of 11
    assert decompose(copies).u.shape == (300, 6)
    assert pwcca(y, copies) == pytest.approx(pwcca(y, x), abs=1e-8)
    assert pwcca(copies, y) == pytest.approx(reference(copies, y)[0], abs=1e-8)
    half = copies.astype(np.float32)  # whose copies are only true to seven digits
    assert decompose(half).u.shape == (300, 6)
    assert pwcca(half, y) == pytest.approx(pwcca(copies, y), abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_activations_are_similar_to_nothing(rng, value, dtype):
    constant, x = np.full((300, 5), value, dtype), rng.standard_normal((300, 4))
    matrices = compare([decompose(constant), decompose(x)])
    np.testing.assert_allclose(matrices.weighted, [[0, 0], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(matrices.cka, [[0, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("activations", "complaint"),
    [
        (np.zeros((4, 5)), "4 samples are fewer than the 5 dimensions"),
        (np.zeros((5, 5), int), "floating point"),
        (np.zeros(5), "shape"),
        (np.full((5, 2), np.nan), "NaN"),
    ],
)
def test_bad_activations(activations, complaint):
    with pytest.raises(HearMwmaeError, match=complaint):
        decompose(activations)


def test_activations_of_different_samples():
    with pytest.raises(HearMwmaeError, match="different numbers of samples"):
        pwcca(np.random.rand(9, 2), np.random.rand(8, 2))


def test_all_pairs_are_the_pairs_one_by_one(rng):
    sets = [*related(rng, 200, 5, 3), *related(rng, 200, 4, 6)]
    bases = list(map(decompose, sets))
    matrices = compare(bases)
    expected = [[reference(a, b)[0] for b in sets] for a in sets]
    np.testing.assert_allclose(matrices.weighted, expected, atol=1e-8)
    np.testing.assert_allclose(matrices.pwcca, (np.array(expected) + np.array(expected).T) / 2, atol=1e-8)
    np.testing.assert_allclose(compare_across(bases[:2], bases[2:]), matrices.pwcca[:2, 2:], atol=1e-12)


def test_samples_that_count_twice_are_samples_that_stand_twice(rng):
    sets = [*related(rng, 80, 5, 3), rng.standard_normal((80, 4))]
    counts = rng.integers(0, 3, 80)
    repeated = compare([decompose(np.repeat(x, counts, axis=0)) for x in sets])
    counted = compare([decompose(x) for x in sets], counts.astype(float))
    np.testing.assert_allclose(counted.weighted, repeated.weighted, atol=1e-9)
    np.testing.assert_allclose(counted.cka, repeated.cka, atol=1e-9)
    few = np.zeros(80)
    few[:4] = 1  # fewer clips than dimensions: directions are lost, nothing breaks
    assert np.isfinite(compare([decompose(x) for x in sets], few).weighted).all()
