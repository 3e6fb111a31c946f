"""Distances between patients from the moments of their cells, in which the sampling error of the cells is removed.

Symbols: P patients, n_i cells of patient i, K components, d dimensions, D numbers of a block of moments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular

from muport._parallel import single_threaded
from muport.gmm.mixtures._mixtures import responsibilities

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["moment_coordinates"]

_CHUNK = 2**21  # moments of cells that are held at once, 16 MiB
_RIDGE = 1e-3  # added to the within-patient covariance, as a fraction of each variance: shares sum to 1
_TINY = 1e-12


@single_threaded()
def moment_coordinates(
    x: ArrayLike,
    sample: NDArray[np.int64],
    pooled: Mixtures,
    *,
    weight: NDArray[np.float64] | None = None,
    w: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Compute coordinates of patients from the moments of their cells under one mixture of the cohort.

    With the responsibilities :math:`r_k(x)` of the pooled components, a patient has four blocks of moments, each a mean
    over its cells: :math:`x`; :math:`r_k(x)`; :math:`r_k(x)(x - m_k)`; and the squares :math:`r_k(x)(x - m_k)_j^2`, the
    statistics of Fisher vectors (Perronnin and Dance 2007). For each block:

    1. It is whitened by its covariance V within patients, so that the sampling error of patient i has the covariance
       :math:`I / n_i` whatever the block.
    2. Its principal coordinates over patients are shrunk, by the spiked covariance model of Donoho, Gavish and
       Johnstone (2018). With the eigenvalue y in units of the mean sampling error and :math:`\gamma = D / (P - 1)`, an
       axis with :math:`y \le (1 + \sqrt\gamma)^2` is what sampling error alone gives, and is dropped. Otherwise the
       signal is :math:`\ell = (y + 1 - \gamma + \sqrt{(y + 1 - \gamma)^2 - 4 y}) / 2`, the squared cosine to the true
       axis is :math:`c^2 = (1 - \gamma / (\ell - 1)^2) / (1 + \gamma / (\ell - 1))`, and squared coordinates are
       multiplied by :math:`c^2 (\ell - 1) / \ell`.

    MW2 grows with the root of a difference in composition, as mass moves between distant components, so that the
    sampling error of the shares outweighs differences of the components. Squares of these coordinates grow with the
    square of every difference, in units of its own sampling error.

    - `x`: (n, d) cells.
    - `sample`: (n,) codes 0..P-1.
    - `pooled`: One mixture.
    - `weight`: (n,) weights; a cell of weight 2 counts as two cells.
    - `w`: (r, d) metric under which the moments are taken; by default the identity.

    Returns (P, A); A is the number of axes that are kept, which may be 0. The unit is the standard deviation of cells
    within patients. Raises ValueError if no patient has two cells, by weight.

    Examples
    --------
    >>> from muport.gmm.mixtures._mixtures import Mixtures
    >>> x = np.random.default_rng(0).normal(size=(400, 1)) + np.repeat([0, 0, 3, 3], 100)[:, None]
    >>> pooled = Mixtures(np.ones((1, 1)), x.mean(0)[None, None], np.array([[[[3.0]]]]), "full", 0.0)
    >>> coordinates = moment_coordinates(x, np.repeat(np.arange(4), 100), pooled)
    >>> bool(abs(coordinates[0, 0] - coordinates[1, 0]) < 0.5 < 2 < abs(coordinates[0, 0] - coordinates[2, 0]))
    True
    """
    cells, mass = np.asarray(x, dtype=np.float64), np.ones(len(sample)) if weight is None else weight
    size = np.bincount(sample, mass)
    if size.sum() <= len(size):
        raise ValueError(
            f"{len(size)} patients have {size.sum():g} cells, by weight: the sampling error is estimated from patients "
            "with two cells or more."
        )
    blocks = []
    for mean, within in _block_statistics(cells, sample, pooled, mass, w):
        covariance = within / (size.sum() - len(size))
        if np.trace(covariance) > _TINY:
            blocks.append(_shrink_block(mean, covariance, size))
    coordinates: NDArray[np.float64] = np.concatenate([*blocks, np.zeros((len(size), 0))], axis=1)
    return coordinates


def _block_statistics(
    x: NDArray[np.float64], sample: NDArray[np.int64], pooled: Mixtures, mass: NDArray[np.float64], w: ArrayLike | None
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean (P, D) of each patient, and the scatter (D, D) of cells about it, of each block."""
    metric = np.eye(x.shape[1]) if w is None else np.asarray(w, dtype=np.float64)
    center = np.average(x, axis=0, weights=mass)
    means = (pooled.means[0] - center) @ metric.T
    width = means.size + means.shape[1]
    step = max(1, _CHUNK // width)
    n_samples = int(sample.max()) + 1
    total = np.bincount(sample, mass, n_samples)[:, None]
    sums: list[NDArray[np.float64]] = []
    squares: list[NDArray[np.float64]] = []
    for low in range(0, len(x), step):
        part = slice(low, low + step)
        r = responsibilities(x[part], pooled).astype(np.float64)
        own = mass[part]
        member = sparse.csr_array((own, (sample[part], np.arange(len(own)))), shape=(n_samples, len(own)))
        for i, moments in enumerate(_cell_moments((x[part] - center) @ metric.T, r, means)):
            if len(sums) <= i:
                sums.append(np.zeros((n_samples, moments.shape[1])))
                squares.append(np.zeros((moments.shape[1], moments.shape[1])))
            sums[i] += member @ moments
            squares[i] += (moments * own[:, None]).T @ moments
    statistics = []
    for first, second in zip(sums, squares, strict=True):
        mean = first / total
        statistics.append((mean, second - mean.T @ first))
    return statistics


def _cell_moments(
    x: NDArray[np.float64], r: NDArray[np.float64], means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """The four blocks of moments (n, D) of each cell."""
    offset = x[:, None] - means
    first = r[:, :, None] * offset
    second = first * offset
    return x, r, first.reshape(len(x), -1), second.reshape(len(x), -1)


def _shrink_block(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coordinates (P, A) of a block: whitened, rotated to its principal axes over patients, and shrunk."""
    n_patients, n_moments = mean.shape
    variance = np.diag(covariance)
    kept = variance > _TINY * variance.max()
    within = covariance[np.ix_(kept, kept)] + np.diag(_RIDGE * variance[kept])
    centered = (mean - mean.mean(axis=0))[:, kept]
    white = solve_triangular(np.linalg.cholesky(within), centered.T, lower=True).T
    left, scale, _ = np.linalg.svd(white, full_matrices=False)
    gamma = n_moments / max(n_patients - 1, 1)
    factor = _signal_fractions(scale**2 / max(n_patients - 1, 1) / np.mean(1 / size), gamma)
    used = factor > 0
    coordinates: NDArray[np.float64] = (left * scale * np.sqrt(factor))[:, used]
    # the sign of a singular vector is arbitrary
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], 0)
    return coordinates * np.sign(largest)


def _signal_fractions(value: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Factors of squared coordinates, from eigenvalues in units of the sampling error; 0 for those of error alone."""
    large = value > (1 + np.sqrt(gamma)) ** 2
    shifted = np.where(large, value + 1 - gamma, 4.0)
    signal = (shifted + np.sqrt(np.maximum(shifted**2 - 4 * np.where(large, value, 1.0), 0))) / 2
    excess = signal - 1
    cosine = (1 - gamma / excess**2) / (1 + gamma / excess)
    fraction: NDArray[np.float64] = np.where(large, np.clip(cosine, 0, 1) * excess / signal, 0.0)
    return fraction
