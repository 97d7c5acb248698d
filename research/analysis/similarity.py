"""Similarity of sets of activations: projection-weighted CCA (PWCCA).

It follows Morcos, Raghu and Bengio, "Insights on representational similarity in neural networks
with canonical correlation" (NeurIPS 2018). For activations X (n, p) and Y (n, p), one row per
sample, columns centred:

* canonical correlations rho_1 >= rho_2 >= ... are the singular values of Cxx^-1/2 Cxy Cyy^-1/2,
* h_i = X Cxx^-1/2 u_i are the canonical variates of X, with u_i the left singular vectors,
* alpha_i = sum_j |<h_i, x_j>| over the columns x_j of X says how much of X the i-th variate
  accounts for,
* pwcca(X, Y) = sum_i alpha_i rho_i / sum_i alpha_i, with as many terms as the smaller rank.

The first argument determines the weights. Here the mean of both directions is taken.
"""

from itertools import combinations

import numpy as np

#: Directions of less than this part of a set's norm are roundings of float32.
NEGLIGIBLE = 1e-5


def pwcca(activations: np.ndarray) -> np.ndarray:
    """Symmetric PWCCA of all pairs of sets, (sets, sets) float64; 0 where one of the two is
    constant.

    Args:
        activations: (sets, samples, dimensions); with fewer samples than dimensions, CCA always
            finds perfect correlations.
    """
    bases = []
    for x in activations.astype(np.float64):
        u, sizes, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        kept = sizes > NEGLIGIBLE * np.linalg.norm(x)
        # X = basis @ loadings, and the basis, X Cxx^-1/2 but for a rotation, is orthonormal.
        bases.append((u[:, kept], (sizes[:, None] * vt)[kept]))
    similarity = np.eye(len(bases))
    for i, j in combinations(range(len(bases)), 2):
        (basis_x, loadings_x), (basis_y, loadings_y) = bases[i], bases[j]
        u, rho, vt = np.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
        if len(rho):
            alpha_x = np.abs(u.T @ loadings_x).sum(axis=1)
            alpha_y = np.abs(vt @ loadings_y).sum(axis=1)
            weighted = alpha_x @ rho / alpha_x.sum(), alpha_y @ rho / alpha_y.sum()
            similarity[i, j] = similarity[j, i] = sum(weighted) / 2
    return similarity


def null_level(samples: int, dimensions: int) -> float:
    """Mean PWCCA of 20 sets of independent normal noise: that of unrelated sets, which is not 0."""
    noise = np.random.default_rng(0).standard_normal((20, samples, dimensions))
    return float(pwcca(noise)[~np.eye(20, dtype=bool)].mean())
