"""Shifts of all cells of a patient, distinguished from differences in composition by states that all patients share.

Symbols: P patients, n cells, n_i of patient i, M states, d dimensions; p_im is the proportion of state m in patient i,
r_jm the posterior probability of state m for cell j, b_i the offset of patient i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from muport._parallel import single_threaded
from muport.gmm.mixtures._pooled_prior import sample_evenly
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SharedStates", "fit_shared_states"]

_NUMBERS = (2, 3, 5, 8)  # numbers of states that are tried
_MIN_CELLS, _MAX_CELLS, _CELLS_PER_PATIENT = 2_000, 10_000, 40  # cells that the states are fitted on
_MAX_ITER = 30
_TOLERANCE = 1e-3  # change of the log-likelihood per cell, in nats, below which a fit ends
#: Cells at the states, without an offset, that each patient gets in addition: an offset of few cells is shrunk.
_PRIOR_CELLS = 0.01
_ROUNDING = 1e-9  # fraction of the variance below which variance within states is a rounding error


@dataclass(frozen=True, eq=False)
class SharedStates:
    r"""States that all patients share up to an offset of the patient.

    A cell of state m of patient i has the distribution :math:`N(c_m + b_i, S)`, and the state the proportion
    :math:`p_{im}` of the patient's cells. Each patient has proportions of its own, so that a difference in composition,
    which moves the mean of its cells, is not an offset.

    - `weights`: (M,) proportions of the states in all patients.
    - `means`: (M, d) centers c.
    - `covariance`: (d, d) covariance S within states.
    - `variance`: Mean variance of the offsets on an axis, in units of S.
    """

    weights: Annotated[NDArray[np.float64], "M", "0.."]
    means: Annotated[NDArray[np.float64], "M d"]
    covariance: Annotated[NDArray[np.float64], "d d"]
    variance: Annotated[float, "0.."]

    def check_consistency(self) -> None:
        """Raise a ValueError unless the weights sum to 1 and the covariance is positive definite."""
        if not np.isclose(self.weights.sum(), 1, atol=1e-6):
            raise ValueError("the weights of the states do not sum to 1.")
        np.linalg.cholesky(self.covariance)

    @single_threaded()
    def offsets(
        self, x: NDArray[np.floating], sample: NDArray[np.int64], weight: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Estimate the offset (P, d) of each patient by EM from two starts; the likelier result of a patient is kept.

        One start is no offset, the other the difference of the patient's mean from that of the states. The likelihood
        of an offset under a normal distribution with their variance is included.

        - `x`, `sample`, `weight`: (n, d) cells, their patients 0 to P - 1, and their weights, 1 by default.
        """
        cells = _Cells.of(x, sample, weight)
        zero = np.zeros((len(cells.size), self.means.shape[1]))
        fits = [_fit_offsets(cells, self, start) for start in (zero, cells.means() - self.weights @ self.means)]
        better = fits[1][1] > fits[0][1]
        offsets: NDArray[np.float64] = np.where(better[:, None], fits[1][0], fits[0][0])
        return offsets


@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells (n, d), their patients and weights (n,), and the weight (P,) of the cells of each patient."""

    x: NDArray[np.float64]
    sample: NDArray[np.int64]
    weight: NDArray[np.float64]
    size: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[np.floating], sample: NDArray[np.int64], weight: NDArray[np.float64] | None) -> _Cells:
        mass = np.ones(len(sample)) if weight is None else np.asarray(weight, dtype=np.float64)
        return cls(np.asarray(x, dtype=np.float64), sample, mass, np.bincount(sample, mass))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted sums (P, c) of values (n, c) over the cells of each patient."""
        shape = len(self.size), len(self.sample)
        member = sparse.csr_array((self.weight, (self.sample, np.arange(shape[1]))), shape=shape)
        total: NDArray[np.float64] = member @ values
        return total

    def means(self) -> NDArray[np.float64]:
        """Mean (P, d) of the cells of each patient."""
        mean: NDArray[np.float64] = self.sums(self.x) / np.maximum(self.size, np.finfo(np.float64).tiny)[:, None]
        return mean


@dataclass(frozen=True, eq=False)
class _Fit:
    """States, posterior probabilities (n, M), and the criterion, higher is better."""

    states: SharedStates
    posterior: NDArray[np.float64]
    criterion: float


@single_threaded()
def fit_shared_states(
    x: NDArray[np.floating],
    sample: NDArray[np.int64],
    weight: NDArray[np.float64] | None = None,
    random_state: int = 0,
) -> SharedStates | None:
    r"""Fit states that all patients share up to an offset, if offsets explain the cells better than none.

    Models with and without offsets and with 2 to 8 states are compared by the criterion of Schwarz (1978),

    .. math:: L - \tfrac12 \log n \, [M d + d (d + 1) / 2 + P (M - 1) + P d \text{ (offsets)}].

    Given the posterior probabilities an offset has a closed form, :math:`b_i = \sum_{jm} r_{jm} (x_j - c_m) / n_i`, but
    for a small shrinkage. Fits with offsets start from the states without them, and from cells centered in each
    patient. At most 10,000 cells are used, drawn evenly over patients. No condition or annotated type is used.

    - `x`, `sample`, `weight`: (n, d) cells, their patients 0 to P - 1, and their weights, 1 by default.
    - `random_state`: Seed.

    Returns None if there is one patient, or a model without offsets is better.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sample, state = np.repeat(np.arange(4), 100), rng.integers(2, size=400)
    >>> x = rng.normal(size=(400, 2)) + 8 * state[:, None]
    >>> fit_shared_states(x, sample) is None
    True
    >>> shifted = x + np.array([0, 3, 0, -3])[sample][:, None]
    >>> offsets = fit_shared_states(shifted, sample).offsets(shifted, sample)
    >>> (offsets[1] - offsets[3]).round().tolist()
    [6.0, 6.0]
    """
    mass = np.ones(len(sample)) if weight is None else np.asarray(weight, dtype=np.float64)
    n_patients = int(sample.max()) + 1
    rows = sample_evenly(sample, int(np.clip(_CELLS_PER_PATIENT * n_patients, _MIN_CELLS, _MAX_CELLS)), random_state)
    rows = rows[mass[rows] > 0]
    numbers = [m for m in _NUMBERS if m < len(rows)]
    if n_patients < 2 or len(np.unique(sample[rows])) < n_patients or not numbers:
        return None
    cells = _Cells.of(x[rows], sample[rows], mass[rows])
    none = np.zeros((n_patients, x.shape[1]))
    centered = cells.means() - cells.means().mean(axis=0)
    without = _best([_fit(cells, none, _cluster(cells, none, m, random_state), shifted=False) for m in numbers])
    if without is None:
        return None
    starts = [(none, without.posterior)]
    starts += [(centered, _cluster(cells, centered, m, random_state)) for m in numbers]
    best = _best([_fit(cells, offset, posterior, shifted=True) for offset, posterior in starts])
    return None if best is None or best.criterion <= without.criterion else best.states


def _best(fits: list[_Fit | None]) -> _Fit | None:
    """The fit of the best criterion; None where all cells are equal."""
    known = [fit for fit in fits if fit is not None]
    return max(known, key=lambda fit: fit.criterion) if known else None


def _cluster(cells: _Cells, offset: NDArray[np.float64], number: int, random_state: int) -> NDArray[np.float64]:
    """Clusters (n, M) of the cells without the offsets, as 0 and 1."""
    x = (cells.x - offset[cells.sample]).astype(np.float32)
    labels = kmeans(x, number, weights=cells.weight, random_state=random_state).labels
    clusters: NDArray[np.float64] = np.eye(int(labels.max()) + 1)[labels]
    return clusters


def _fit(
    cells: _Cells, offset: NDArray[np.float64], posterior: NDArray[np.float64], *, shifted: bool
) -> _Fit | None:  # fmt: skip
    """EM from posterior probabilities; offsets are estimated only if `shifted`. None if the cells do not vary."""
    n, (n_patients, d), number = cells.size.sum(), offset.shape, posterior.shape[1]
    before, log_likelihood = -np.inf, -np.inf
    for _ in range(_MAX_ITER):
        if (updated := _update_states(cells, offset, posterior)) is None:
            return None
        states = updated
        if shifted:
            offset = _update_offsets(cells, posterior, states.means)
            offset = offset - offset.mean(axis=0)
        proportions = _proportions(cells, posterior, states)
        posterior, likelihood = _expect(cells, states, offset, proportions)
        before, log_likelihood = log_likelihood, float((cells.weight * likelihood).sum())
        if log_likelihood - before < _TOLERANCE * n:
            break
    n_parameters = number * d + d * (d + 1) / 2 + n_patients * (number - 1 + d * shifted)
    variance = float(np.square(_whiten(states.covariance, offset)).mean())
    final = SharedStates(states.weights, states.means, states.covariance, variance)
    return _Fit(final, posterior, log_likelihood - 0.5 * n_parameters * np.log(n))


def _fit_offsets(
    cells: _Cells, states: SharedStates, offset: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets (P, d) for given states by EM from a start, and their log-posteriors (P,) up to a constant."""
    proportions = np.broadcast_to(states.weights, (len(offset), len(states.weights)))
    before, total = -np.inf, -np.inf
    for _ in range(_MAX_ITER):
        posterior, likelihood = _expect(cells, states, offset, proportions)
        before, total = total, float((cells.weight * likelihood).sum())
        if total - before < _TOLERANCE * cells.size.sum():
            break
        proportions = _proportions(cells, posterior, states)
        offset = _update_offsets(cells, posterior, states.means)
    squared = np.square(_whiten(states.covariance, offset)).sum(axis=1)
    of_patients = np.bincount(cells.sample, cells.weight * likelihood, len(offset))
    return offset, of_patients - 0.5 * squared / max(states.variance, np.finfo(np.float64).tiny)


def _update_states(
    cells: _Cells, offset: NDArray[np.float64], posterior: NDArray[np.float64]
) -> SharedStates | None:  # fmt: skip
    """States from the cells without offsets; None if cells do not vary within states."""
    x, member = cells.x - offset[cells.sample], cells.weight[:, None] * posterior
    mass, n, d = member.sum(axis=0), cells.size.sum(), offset.shape[1]
    center = cells.weight @ x / n
    x -= center
    means = (member.T @ x) / np.maximum(mass, np.finfo(np.float64).tiny)[:, None]
    total = (x * cells.weight[:, None]).T @ x / n
    covariance = total - (means.T * mass) @ means / n
    diagonal = np.maximum(np.diag(covariance), 0)
    if diagonal.sum() <= _ROUNDING * np.trace(total):
        return None
    # as if d more cells had uncorrelated coordinates
    covariance = (n * covariance + d * np.diag(diagonal)) / (n + d) + 1e-6 * diagonal.mean() * np.eye(d)
    return SharedStates(mass / n, means + center, covariance, 0.0)


def _update_offsets(
    cells: _Cells, posterior: NDArray[np.float64], means: NDArray[np.float64]
) -> NDArray[np.float64]:  # fmt: skip
    """Mean difference (P, d) of the cells of each patient from their states, slightly shrunk."""
    offset: NDArray[np.float64] = cells.sums(cells.x - posterior @ means) / (cells.size + _PRIOR_CELLS)[:, None]
    return offset


def _proportions(cells: _Cells, posterior: NDArray[np.float64], states: SharedStates) -> NDArray[np.float64]:
    """Proportions (P, M) of the states in each patient, as if it had M more cells with the mean proportions."""
    number = len(states.weights)
    proportions: NDArray[np.float64] = (cells.sums(posterior) + number * states.weights) / (cells.size + number)[
        :, None
    ]
    return proportions


def _expect(
    cells: _Cells, states: SharedStates, offset: NDArray[np.float64], proportions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior probabilities (n, M) of the states, and log-likelihood (n,) of each cell, in nats."""
    white, means = (_whiten(states.covariance, x) for x in (cells.x - offset[cells.sample], states.means))
    with np.errstate(divide="ignore"):
        joint = white @ means.T - 0.5 * np.square(means).sum(axis=1) + np.log(proportions)[cells.sample]
    log_sum = logsumexp(joint, axis=1)
    log_det = np.log(np.diag(np.linalg.cholesky(states.covariance))).sum()
    constant = log_det + 0.5 * white.shape[1] * np.log(2 * np.pi)
    return np.exp(joint - log_sum[:, None]), log_sum - 0.5 * np.square(white).sum(axis=1) - constant


def _whiten(covariance: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates under which the covariance is the identity."""
    white: NDArray[np.float64] = solve_triangular(np.linalg.cholesky(covariance), x.T, lower=True).T
    return white
