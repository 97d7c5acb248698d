"""Similarity of sets of activations: projection-weighted CCA (PWCCA) and linear CKA.

PWCCA follows Morcos, Raghu and Bengio, "Insights on representational similarity in neural networks
with canonical correlation" (NeurIPS 2018). For activations X (n, p) and Y (n, p), one row per
sample, columns centred:

* canonical correlations rho_1 >= rho_2 >= ... are the singular values of Cxx^-1/2 Cxy Cyy^-1/2,
* h_i = X Cxx^-1/2 u_i are the canonical variates of X, with u_i the left singular vectors,
* alpha_i = sum_j |<h_i, x_j>| over the columns x_j of X says how much of X the i-th variate
  accounts for,
* pwcca(X, Y) = sum_i alpha_i rho_i / sum_i alpha_i, with as many terms as the smaller rank.

The first argument determines the weights, so the measure is not symmetric.

Linear CKA follows Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML
2019): ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms.
"""

from typing import NamedTuple

import numpy as np

#: Directions of less than this part of a set's second moment are roundings of float32.
NEGLIGIBLE = 1e-10


class Similarities(NamedTuple):
    """Of all pairs of sets, each (sets, sets) float64; 0 where one of the two is constant."""

    weighted: np.ndarray  #: PWCCA of row and column with the weights of the row
    cka: np.ndarray

    @property
    def pwcca(self) -> np.ndarray:
        """The symmetric PWCCA: the mean of both directions."""
        return (self.weighted + self.weighted.T) / 2


def similarities(activations: np.ndarray, weights: np.ndarray | None = None) -> Similarities:
    """PWCCA and CKA of all pairs of sets.

    Args:
        activations: (sets, samples, dimensions); with fewer samples than dimensions, CCA always
            finds perfect correlations.
        weights: (samples,) how often each sample counts, for bootstraps; once when None.
    """
    sets, samples, width = activations.shape
    share = np.full(samples, 1 / samples) if weights is None else weights / weights.sum()
    x = activations.astype(np.float64).transpose(1, 0, 2).reshape(samples, sets * width)
    moment = (share @ x**2).reshape(sets, width).sum(axis=1)
    x -= share @ x
    joint = (x.T * share) @ x
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
    norm = np.linalg.norm(covariance, axis=(2, 3))
    own = np.where(rank > 0, norm[number, number], 0)
    return Similarities(
        _ratio((alpha * rho.clip(max=1)).sum(axis=-1), alpha.sum(axis=-1)),
        _ratio(norm**2, np.outer(own, own)),
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def null_level(samples: int, dimensions: int, draws: int = 20, seed: int = 0) -> float:
    """Mean PWCCA of independent normal noise: the value of unrelated sets, which is not 0."""
    noise = np.random.default_rng(seed).standard_normal((draws, samples, dimensions))
    return float(similarities(noise).weighted[~np.eye(draws, dtype=bool)].mean())
