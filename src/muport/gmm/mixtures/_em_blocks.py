"""EM for a block of problems at once: starts, iterations, and the results of all blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport.gmm.mixtures._em_starts import kmeans_start, n_trials
from muport.gmm.mixtures._em_step import (
    BlockParameters,
    EStep,
    FeatureEStep,
    OffsetEStep,
    PriorTerms,
    maximize,
    select_problems,
)
from muport.gmm.mixtures._mixtures import Mixtures
from muport.gmm.mixtures._patient_cells import ONE_THREAD_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from muport.gmm.mixtures._em_settings import EMSettings
    from muport.gmm.mixtures._patient_cells import PatientCells
    from muport.gmm.mixtures._pooled_prior import Prior

__all__ = ["EMProblems", "EMResult", "ResultArrays", "block_budget", "fit_block", "n_features"]

_BUDGET = {"cpu": 2**22, "cuda": 2**27}  # float64 numbers of a block
_CACHE = {"cpu": 2**19, "cuda": 2**27}  # float64 numbers processed at once: the cache of a core, or a GPU's memory
_MAX_DISTANCE = 1e10  # largest squared coordinate over eps for which moments about 0 are exact enough
_TILES = (64, 56, 48, 40, 32)  # candidate numbers of cells of a product; the one with the least padding is used
_MAX_FEATURES = 2**25  # float64 features of a block, 256 MiB


@dataclass(frozen=True, eq=False)
class EMResult:
    """Fitted mixtures of P patients.

    - `mixtures`: The mixtures.
    - `log_likelihood`: (P,) mean log-likelihood per cell, in nats, under the returned mixture.
    - `converged`: (P,) whether the mean log-likelihood changed by less than ``tol`` before ``max_iter`` was reached.
    - `n_iter`: (P,) number of iterations.
    - `history`: (P, T) mean log-likelihood at the start of each iteration; constant after the end of a patient's fit.
    - `n_singular`: (P,) number of components whose covariance was singular; 0 for ``"guarded"``, which does not check.
    """

    mixtures: Mixtures
    log_likelihood: NDArray[np.float64]
    converged: NDArray[np.bool_]
    n_iter: NDArray[np.int64]
    history: NDArray[np.float64]
    n_singular: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EMProblems:
    """The Q problems of a fit, and what all of them share.

    - `cells`: Cells of the patients.
    - `patient`, `k`, `restart`: (Q,) patient, number of components and number of the start of each problem; 0 is the
      first start.
    - `settings`: Options of EM.
    - `priors`: Pooled mixture for each number of components; empty for maximum likelihood.
    - `init`: Start of every patient, or one for all; None for k-means++ or the prior.
    """

    cells: PatientCells
    patient: NDArray[np.int64]
    k: NDArray[np.int64]
    restart: NDArray[np.int64]
    settings: EMSettings
    priors: Mapping[int, Prior]
    init: Mixtures | None

    def __len__(self) -> int:
        return len(self.patient)


class ResultArrays:
    """Arrays of all problems; each block fills the rows of its problems."""

    def __init__(self, n: int, k: int, d: int, settings: EMSettings) -> None:
        unit = np.eye(d) if settings.full else np.ones(d)
        self.settings = settings
        self.weights, self.means = np.zeros((n, k)), np.zeros((n, k, d))
        self.covariances = np.broadcast_to(unit, (n, k, *unit.shape)).copy()
        self.singular = np.zeros((n, k), bool)
        self.likelihood, self.n_iter, self.converged = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)
        self.history = np.zeros((n, settings.max_iter))

    def store(self, rows: NDArray[np.int64], parameters: BlockParameters, singular: Tensor, shift: Tensor) -> None:
        """Store the parameters of some problems, in the coordinates of the cells before centering."""
        k = parameters.weights.shape[1]
        occupied = parameters.weights > 0
        self.weights[rows, :k] = parameters.weights.cpu().numpy()
        self.means[rows, :k] = ((parameters.means + shift[:, None]) * occupied[..., None]).cpu().numpy()
        tail = (...,) + (None,) * (parameters.covariances.ndim - 2)
        covariances = parameters.covariances.cpu().numpy()
        self.covariances[rows, :k] = np.where(occupied.cpu().numpy()[tail], covariances, self.covariances[rows, :k])
        self.singular[rows, :k] = singular.cpu().numpy()

    def result(self, rows: NDArray[np.int64], k: int) -> EMResult:
        """The result from one problem of each patient."""
        mixtures = Mixtures(
            self.weights[rows, :k], self.means[rows, :k], self.covariances[rows, :k],
            self.settings.covariance_type, self.settings.eps,
        )  # fmt: skip
        n_iter = self.n_iter[rows]
        return EMResult(
            mixtures, self.likelihood[rows], self.converged[rows], n_iter, self.history[rows, : n_iter.max()],
            self.singular[rows].sum(axis=1).astype(np.int64),
        )  # fmt: skip


def fit_block(rows: NDArray[np.int64], problems: EMProblems, out: ResultArrays) -> None:
    """Fit a block of problems and store the results.

    - `rows`: (B,) positions of the problems, all with one number of components, and either all first starts or none.
    """
    patients, k, settings = problems.patient[rows], int(problems.k[rows[0]]), problems.settings
    x, weight = problems.cells.padded(patients)
    total = weight.sum(1)[:, None]
    shift = (weight[:, None] @ x).squeeze(1) / total
    x = x - shift[:, None]
    mean_variance = ((weight[:, None] @ x.square()).squeeze(1) / total).mean(1)
    prior = _prior_terms(problems.priors[k], shift) if k in problems.priors else None
    start = problems.init
    if start is None and prior and not problems.restart[rows[0]]:
        start = problems.priors[k].mixture
    e_step = _make_e_step(x, weight, settings)
    if start is not None:
        parameters = _start_from_mixtures(start, patients, k, shift)
    else:
        random = _random(problems, rows, k).to(x.device)
        moments = e_step.moments(*kmeans_start(e_step.x, e_step.weight, k, random))
        parameters = maximize(moments, prior, mean_variance, settings.eps, "guarded")[0]
    before = torch.full_like(mean_variance, torch.inf)
    _iterate(_ActiveProblems(rows, parameters, prior, mean_variance, shift, before), e_step, out)


def _make_e_step(x: Tensor, weight: Tensor, settings: EMSettings) -> EStep:
    """The faster E step if it is exact enough and its features fit in memory, else the exact one."""
    d = x.shape[2]
    # moments about 0 lose digits to cancellation where cells lie far from 0, compared with the smallest variance
    near = bool(x.abs().max() ** 2 <= _MAX_DISTANCE * settings.eps)
    width = n_features(d, settings.full)
    if near and weight.numel() * width <= _MAX_FEATURES:
        cache = _CACHE.get(x.device.type, _CACHE["cpu"])
        return FeatureEStep(x, weight, settings.full, _tile_size(x.shape[1], width, x.device.type, cache), cache)
    return OffsetEStep(x, weight, settings.full, block_budget(x.device.type))


def _tile_size(cells: int, width: int, device: str, cache: int) -> int:
    """Cells of one product: few on one core, since BLAS spends long on packing larger matrices first."""
    if device != "cpu" or cells * width > ONE_THREAD_SIZE:
        return max(1, min(cells, cache // width))
    return min(cells, min(_TILES, key=lambda tile: -(-cells // tile) * tile))


def block_budget(device: str) -> int:
    """Maximum number of float64 numbers in the arrays of a block."""
    return _BUDGET.get(device, _BUDGET["cpu"])


def n_features(d: int, full: bool) -> int:
    """Number of features of a cell: 1, x, and x x' or its diagonal."""
    return 1 + d + (d * (d + 1) // 2 if full else d)


@dataclass(frozen=True, eq=False)
class _ActiveProblems:
    """Problems (B,) of a block that have not ended: parameters, prior, centering, and last log-likelihood."""

    rows: NDArray[np.int64]
    parameters: BlockParameters
    prior: PriorTerms | None
    mean_variance: Tensor
    shift: Tensor
    before: Tensor

    def subset(self, order: Tensor) -> _ActiveProblems:
        """The problems at these positions."""
        prior = replace(self.prior, means=self.prior.means[order]) if self.prior else None
        return _ActiveProblems(
            self.rows[order.cpu().numpy()], select_problems(self.parameters, order), prior, self.mean_variance[order],
            self.shift[order], self.before[order],
        )  # fmt: skip


def _iterate(block: _ActiveProblems, e_step: EStep, out: ResultArrays) -> None:
    """Alternate E and M steps until every problem has ended; problems that have ended are stored and dropped."""
    settings = out.settings
    ended = torch.zeros_like(block.mean_variance, dtype=torch.bool)
    for step in range(settings.max_iter + 1):
        likelihood, moments = e_step.expectation(block.parameters)
        if bool(ended.any()):
            # the likelihood of the parameters that the last M step returned
            out.likelihood[block.rows[ended.cpu().numpy()]] = likelihood[ended].cpu().numpy()
            order = _fill_gaps(~ended)
            if not len(order):
                return
            e_step.keep(order)
            block, likelihood = block.subset(order), likelihood[order]
            moments = select_problems(moments, order)
        parameters, singular = maximize(
            moments, block.prior, block.mean_variance, settings.eps, settings.singularity_handling
        )  # fmt: skip
        small = (likelihood - block.before).abs() < settings.tol
        block = replace(block, parameters=parameters, before=likelihood)
        out.history[block.rows, step:] = likelihood.cpu().numpy()[:, None]
        ended = small | (step + 1 == settings.max_iter)
        if bool(ended.any()):
            rows = block.rows[ended.cpu().numpy()]
            out.n_iter[rows], out.converged[rows] = step + 1, small[ended].cpu().numpy()
            out.store(rows, select_problems(parameters, ended), singular[ended], block.shift[ended])


def _fill_gaps(stays: Tensor) -> Tensor:
    """Positions (C,) of the problems that stay: those among the first C in place, the others in the gaps."""
    count = int(stays.sum())
    order = torch.arange(count, device=stays.device)
    order[~stays[:count]] = count + stays[count:].nonzero().squeeze(1)
    return order


def _random(problems: EMProblems, rows: NDArray[np.int64], k: int) -> Tensor:
    """(B, k, trials) uniform numbers that depend only on the seed, k, the patient and the restart."""
    state = np.random.SeedSequence((problems.settings.random_state, k)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    n_patients, n_starts = int(problems.patient.max()) + 1, int(problems.restart.max()) + 1
    numbers = torch.rand((n_starts, n_patients, k, n_trials(k)), generator=generator, dtype=torch.float64)
    return numbers[torch.from_numpy(problems.restart[rows]), torch.from_numpy(problems.patient[rows])]


def _start_from_mixtures(start: Mixtures, patients: NDArray[np.int64], k: int, shift: Tensor) -> BlockParameters:
    """Parameters of given mixtures, one for each patient or one for all."""
    rows = patients if len(start) > 1 else np.zeros_like(patients)
    weights, means, covariances = (
        torch.from_numpy(array[rows, :k]).to(shift) for array in (start.weights, start.means, start.covariances)
    )
    factor = torch.linalg.cholesky(covariances) if covariances.ndim == 4 else covariances.sqrt()
    return BlockParameters(weights, means - shift[:, None], covariances, factor)


def _prior_terms(prior: Prior, shift: Tensor) -> PriorTerms:
    """The prior in the centered coordinates of each problem."""
    weights, means, covariances = (
        torch.from_numpy(array).to(shift) for array in (prior.weights, prior.means, prior.covariances)
    )
    return PriorTerms(weights[None], means - shift[:, None], covariances[None], prior.nu)
