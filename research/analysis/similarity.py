"""Similarity of two sets of activations: projection-weighted CCA (PWCCA) and linear CKA.

PWCCA follows Morcos, Raghu and Bengio, "Insights on representational similarity in neural networks
with canonical correlation" (NeurIPS 2018). For activations X (n, p) and Y (n, q), one row per
sample, columns centred:

* canonical correlations rho_1 >= rho_2 >= ... are the singular values of Cxx^-1/2 Cxy Cyy^-1/2,
* h_i = X Cxx^-1/2 u_i are the canonical variates of X, with u_i the left singular vectors,
* alpha_i = sum_j |<h_i, x_j>| over the columns x_j of X says how much of X the i-th variate
  accounts for,
* pwcca(X, Y) = sum_i alpha_i rho_i / sum_i alpha_i, with as many terms as the smaller rank.

The first argument determines the weights, so the measure is not symmetric.

Linear CKA follows Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML
2019): ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms.

All products are in float64. Each set of activations is decomposed once (X = U L with orthonormal
columns in U); a pair of sets then costs one product U_x'U_y and the SVD of that small matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import HearMwmaeError

#: Directions of a length below this many roundings of the activations (in their own precision) are
#: rounding errors.
ROUNDINGS = 100
#: Directions that a resampling has all but lost: their part of the squared length.
LOST = 1e-10


@dataclass(frozen=True)
class Basis:
    """Centred activations of n samples as ``u @ loadings``; the rank may be 0."""

    u: np.ndarray  #: (n, rank) float64, orthonormal columns that sum to 0
    loadings: np.ndarray  #: (rank, dimensions) float64


class Pair(NamedTuple):
    """Similarity of two sets of activations, x and y; all 0 where one is constant."""

    weighted_x: float  #: PWCCA with the weights of x
    weighted_y: float  #: PWCCA with the weights of y
    cka: float

    @property
    def pwcca(self) -> float:
        """The symmetric PWCCA: the mean of both."""
        return (self.weighted_x + self.weighted_y) / 2


class Matrices(NamedTuple):
    """Similarities of all pairs, each (sets, sets) float64."""

    weighted: np.ndarray  #: PWCCA of row and column with the weights of the row
    cka: np.ndarray

    @property
    def pwcca(self) -> np.ndarray:
        """The symmetric PWCCA."""
        return (self.weighted + self.weighted.T) / 2


def decompose(activations: np.ndarray) -> Basis:
    """(samples, dimensions) floating-point activations, one row per sample.

    Directions within the rounding of the activations' own precision are dropped: constant columns,
    copies, sums of others.

    Raises:
        HearMwmaeError: not a matrix of finite floating-point numbers, or fewer samples than
            dimensions, for which CCA always finds perfect correlations.
    """
    x = np.asarray(activations)
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.floating):
        raise HearMwmaeError(f"activations must be floating point of shape (samples, dimensions), got {x.shape} of {x.dtype}")
    if x.shape[0] < x.shape[1]:
        raise HearMwmaeError(f"{x.shape[0]} samples are fewer than the {x.shape[1]} dimensions: CCA needs more samples")
    rounding = ROUNDINGS * np.finfo(x.dtype).eps
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise HearMwmaeError("activations hold NaN or infinity")
    u, lengths, directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    # Relative to the length before centring: a large mean causes large roundings.
    kept = lengths > rounding * np.linalg.norm(x)
    return Basis(u[:, kept], lengths[kept, None] * directions[kept])


def pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """PWCCA of activations (samples, p) and (samples, q) with the weights of ``x``, from 0 to 1;
    errors as `decompose`.
    """
    return compare([decompose(x), decompose(y)]).weighted[0, 1]


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of activations (samples, p) and (samples, q), from 0 to 1; errors as
    `decompose`.
    """
    return compare([decompose(x), decompose(y)]).cka[0, 1]


def compare(bases: Sequence[Basis], weights: np.ndarray | None = None) -> Matrices:
    """All pairs of sets of activations of the same samples; a constant set has no similarity to
    anything, itself included.

    Args:
        weights: (samples,) how often each sample counts, for bootstraps; once when None.
    """
    everything = _Moments(bases, weights)
    count = len(bases)
    weighted, cka = np.zeros((count, count)), np.zeros((count, count))
    for i in range(count):
        for j, pair in zip(range(i, count), everything.row(i, range(i, count)), strict=True):
            weighted[i, j], weighted[j, i], cka[i, j] = pair.weighted_x, pair.weighted_y, pair.cka
            cka[j, i] = pair.cka
    return Matrices(weighted, cka)


def compare_across(rows: Sequence[Basis], columns: Sequence[Basis], weights: np.ndarray | None = None) -> np.ndarray:
    """(rows, columns) symmetric PWCCA of the pairs of two lists of sets; ``weights`` as for
    `compare`.
    """
    everything = _Moments([*rows, *columns], weights)
    others = range(len(rows), len(rows) + len(columns))
    return np.array([[pair.pwcca for pair in everything.row(i, others)] for i in range(len(rows))])


def null_level(samples: int, dimensions: tuple[int, int], draws: int = 20, seed: int = 0) -> float:
    """Mean PWCCA of independent normal noise of so many samples and dimensions: the value for
    unrelated sets.
    """
    rng = np.random.default_rng(seed)
    p, q = dimensions
    return float(np.mean([pwcca(rng.standard_normal((samples, p)), rng.standard_normal((samples, q))) for _ in range(draws)]))


class _Moments:
    """Sets of activations whose samples count ``weights`` times, by moments in the orthonormal
    bases: well conditioned.
    """

    def __init__(self, bases: Sequence[Basis], weights: np.ndarray | None) -> None:
        if len({len(basis.u) for basis in bases}) > 1:
            raise HearMwmaeError(f"activations of different numbers of samples: {sorted({len(basis.u) for basis in bases})}")
        self.bases = bases
        self.u = np.concatenate([basis.u for basis in bases], axis=1)
        self.ends = np.cumsum([0, *(basis.u.shape[1] for basis in bases)])
        self.weights = weights
        if weights is not None:
            self.mean = weights @ self.u / weights.sum()
        self.roots = []  # square root of each set's second moments, its inverse, and the weighted loadings
        for number, basis in enumerate(bases):
            values, vectors = np.linalg.eigh(self._moments(number, slice(self.ends[number], self.ends[number + 1])))
            kept = values > LOST
            root = vectors[:, kept] * np.sqrt(values[kept])
            self.roots.append((vectors[:, kept] / np.sqrt(values[kept]), root.T @ basis.loadings))

    def _moments(self, number: int, columns: slice) -> np.ndarray:
        """U_x' W U, centred, for the columns of the joint U."""
        u = self.bases[number].u
        if self.weights is None:
            return u.T @ self.u[:, columns]
        mine = slice(self.ends[number], self.ends[number + 1])
        centring = self.weights.sum() * np.outer(self.mean[mine], self.mean[columns])
        return (u * self.weights[:, None]).T @ self.u[:, columns] - centring

    def row(self, i: int, others: range) -> list[Pair]:
        """Similarities of set i to the sets ``others``, which are neighbours."""
        first = self.ends[others.start]
        moments = self._moments(i, slice(first, self.ends[others.stop]))
        return [self._pair(i, j, moments[:, self.ends[j] - first : self.ends[j + 1] - first]) for j in others]

    def _pair(self, i: int, j: int, moments: np.ndarray) -> Pair:
        (inverse_x, x), (inverse_y, y) = self.roots[i], self.roots[j]
        cross = inverse_x.T @ moments @ inverse_y
        if not cross.size:
            return Pair(0.0, 0.0, 0.0)
        left, correlations, right = np.linalg.svd(cross, full_matrices=False)
        correlations = correlations.clip(max=1.0)
        weights_x, weights_y = np.abs(left.T @ x).sum(axis=1), np.abs(right @ y).sum(axis=1)
        cka = np.linalg.norm(x.T @ cross @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
        return Pair(
            float(weights_x @ correlations / weights_x.sum()),
            float(weights_y @ correlations / weights_y.sum()),
            min(float(cka), 1.0),
        )
