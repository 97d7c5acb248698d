"""Similarity of sets of activations: projection-weighted CCA (PWCCA).

It follows Morcos, Raghu and Bengio, "Insights on representational similarity in neural networks
with canonical correlation" (NeurIPS 2018). For activations X (n, p) and Y (n, p), one row per
sample, columns centred:

* canonical correlations rho_1 >= rho_2 >= ... are the singular values of Cxx^-1/2 Cxy Cyy^-1/2,
* h_i = X Cxx^-1/2 u_i are the canonical variates of X, with u_i the left singular vectors,
* alpha_i = sum_j |<h_i, x_j>| over the columns x_j of X says how much of X the i-th variate
  accounts for,
* pwcca(X, Y) = sum_i alpha_i rho_i / sum_i alpha_i, with as many terms as the smaller rank.

The first argument determines the weights, so the measure is not symmetric.
"""

import numpy as np

#: Directions of less than this part of a set's second moment are roundings of float32.
NEGLIGIBLE = 1e-10


def pwcca(activations: np.ndarray) -> np.ndarray:
    """PWCCA of all pairs of sets, (sets, sets) float64, with the weights of the row; 0 where one of
    the two is constant.

    Args:
        activations: (sets, samples, dimensions); with fewer samples than dimensions, CCA always
            finds perfect correlations.
    """
    sets, samples, width = activations.shape
    x = activations.astype(np.float64).transpose(1, 0, 2).reshape(samples, sets * width)
    moment = (x**2).mean(axis=0).reshape(sets, width).sum(axis=1)
    x -= x.mean(axis=0)
    joint = x.T @ x / samples
    covariance = joint.reshape(sets, width, sets, width).transpose(0, 2, 1, 3)

    number = np.arange(sets)
    values, vectors = np.linalg.eigh(covariance[number, number])
    kept = values > NEGLIGIBLE * moment[:, None]
    root = np.sqrt(np.where(kept, values, 0))[:, None]
    whitening = vectors * np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    loadings = vectors * root
    cross = np.einsum("ipk,ijpq,jql->ijkl", whitening, covariance, whitening, optimize=True)
    u, rho, _ = np.linalg.svd(cross)
    alpha = np.abs(np.einsum("ipk,ijkl->ijpl", loadings, u, optimize=True)).sum(axis=2)
    rank = kept.sum(axis=1)
    alpha *= np.arange(width) < np.minimum.outer(rank, rank)[:, :, None]
    whole = alpha.sum(axis=-1)
    explained = (alpha * rho.clip(max=1)).sum(axis=-1)
    return np.divide(explained, whole, out=np.zeros_like(whole), where=whole > 0)


def null_level(samples: int, dimensions: int) -> float:
    """Mean PWCCA of 20 sets of independent normal noise: that of unrelated sets, which is not 0."""
    noise = np.random.default_rng(0).standard_normal((20, samples, dimensions))
    return float(pwcca(noise)[~np.eye(20, dtype=bool)].mean())
