"""Blocks of EM problems solved together: starts, iterations, and what is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport.gmm.mixtures._em_starts import kmeans_start, n_trials
from muport.gmm.mixtures._em_step import Direct, Engine, Features, PriorTerms, State, maximise, pick
from muport.gmm.mixtures._mixtures import CovarianceType, Mixtures
from muport.gmm.mixtures._patient_cells import SMALL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from muport.gmm.mixtures._patient_cells import Clouds
    from muport.gmm.mixtures._pooled_prior import Prior

__all__ = [
    "EMResult", "Output", "Problems", "Settings", "SingularityHandling", "block_budget", "check_choice", "n_features",
    "solve",
]  # fmt: skip

type SingularityHandling = Literal["guarded", "robust", "strict"]

_BUDGET = {"cpu": 2**22, "cuda": 2**27}  # float64 numbers of a block
_CACHE = {"cpu": 2**19, "cuda": 2**27}  # of what is worked on at once: what the caches of a core, or a device, hold
_FAR = 1e10  # squared size of the data over eps, up to which moments about 0 are exact enough
_TILES = (64, 56, 48, 40, 32)  # cells of a product, of which those that need least padding are taken
_MOST = 2**25  # features of a block: 256 MiB


@dataclass(frozen=True, eq=False)
class EMResult:
    """Fitted mixtures of P patients.

    Attributes
    ----------
    mixtures
        The mixtures.
    log_likelihood
        (P,) mean log-likelihood of a cell, nats, under the mixture returned.
    converged
        (P,) whether the mean log-likelihood changed by less than ``tol`` before ``max_iter`` was reached.
    n_iter
        (P,) iterations.
    history
        (P, T) mean log-likelihood at the start of each iteration; the last is repeated after a patient's end.
    n_singular
        (P,) components whose covariance was singular before stabilisation; 0 for ``"guarded"``, which does not look.
    """

    mixtures: Mixtures
    log_likelihood: NDArray[np.float64]
    converged: NDArray[np.bool_]
    n_iter: NDArray[np.int64]
    history: NDArray[np.float64]
    n_singular: NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """How to run EM; checked."""

    covariance_type: CovarianceType
    max_iter: int
    tol: float
    n_init: int
    eps: float
    handling: SingularityHandling
    seed: int

    def __post_init__(self) -> None:
        check_choice("covariance_type", self.covariance_type, ("full", "diag"))
        check_choice("singularity_handling", self.handling, ("guarded", "robust", "strict"))
        for name in ("max_iter", "n_init"):
            _check_count(name, getattr(self, name))
        for name in ("tol", "eps"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite and >= 0.")


@dataclass(frozen=True, eq=False)
class Problems:
    """What to fit: the patient and number of components of each of Q problems, and whether it is a restart."""

    patient: NDArray[np.int64]
    k: NDArray[np.int64]
    restart: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.patient)


class Output:
    """Arrays that the blocks fill, problem by problem."""

    def __init__(self, n: int, k: int, d: int, settings: Settings) -> None:
        unit = np.eye(d) if settings.covariance_type == "full" else np.ones(d)
        self.settings = settings
        self.weights, self.means = np.zeros((n, k)), np.zeros((n, k, d))
        self.covariances = np.broadcast_to(unit, (n, k, *unit.shape)).copy()
        self.singular = np.zeros((n, k), bool)
        self.likelihood, self.n_iter, self.converged = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)
        self.history = np.zeros((n, settings.max_iter))

    def store(self, rows: NDArray[np.int64], state: State, singular: Tensor, shift: Tensor) -> None:
        """Keep the parameters of some problems, back at the place of their cells."""
        k = state.weights.shape[1]
        held = state.weights > 0
        self.weights[rows, :k] = state.weights.cpu().numpy()
        self.means[rows, :k] = ((state.means + shift[:, None]) * held[..., None]).cpu().numpy()
        tail = (...,) + (None,) * (state.covariances.ndim - 2)
        covariances = state.covariances.cpu().numpy()
        self.covariances[rows, :k] = np.where(held.cpu().numpy()[tail], covariances, self.covariances[rows, :k])
        self.singular[rows, :k] = singular.cpu().numpy()

    def result(self, rows: NDArray[np.int64], k: int) -> EMResult:
        """What was found for one problem of each patient."""
        mixtures = Mixtures(
            self.weights[rows, :k], self.means[rows, :k], self.covariances[rows, :k],
            self.settings.covariance_type, self.settings.eps,
        )  # fmt: skip
        n_iter = self.n_iter[rows]
        return EMResult(
            mixtures, self.likelihood[rows], self.converged[rows], n_iter, self.history[rows, : n_iter.max()],
            self.singular[rows].sum(axis=1).astype(np.int64),
        )  # fmt: skip


def solve(
    rows: NDArray[np.int64],
    clouds: Clouds,
    problems: Problems,
    settings: Settings,
    priors: Mapping[int, Prior],
    init: Mixtures | None,
    out: Output,
) -> None:
    """Fit a block of problems of one kind and store what is found."""
    patients, k = problems.patient[rows], int(problems.k[rows[0]])
    x, weight = clouds.padded(patients)
    total = weight.sum(1)[:, None]
    shift = (weight[:, None] @ x).squeeze(1) / total
    x = x - shift[:, None]
    spread = ((weight[:, None] @ x.square()).squeeze(1) / total).mean(1)
    prior = _terms(priors[k], shift) if k in priors else None
    start = init if init is not None else priors[k].mixture if prior and not problems.restart[rows[0]] else None
    engine = _engine(x, weight, settings)
    state = (
        _from_mixtures(start, patients, k, shift)
        if start is not None
        else _from_kmeans(engine, k, _random(problems, rows, k, settings.seed).to(x.device), prior, spread, settings)
    )
    _iterate(_Open(rows, state, prior, spread, shift, torch.full_like(spread, torch.inf)), engine, settings, out)


def _engine(x: Tensor, weight: Tensor, settings: Settings) -> Engine:
    """The faster of the two, where it is exact enough and its features fit in memory."""
    full = settings.covariance_type == "full"
    d = x.shape[2]
    # Moments about 0 lose as many digits as the cells lie far out in units of the smallest possible variance.
    near = bool(x.abs().max() ** 2 <= _FAR * settings.eps)
    width = n_features(d, full)
    if near and weight.numel() * width <= _MOST:
        cache = _CACHE.get(x.device.type, _CACHE["cpu"])
        return Features(x, weight, full, _tile(x.shape[1], width, x.device.type, cache), cache)
    return Direct(x, weight, full, block_budget(x.device.type))


def _tile(cells: int, width: int, device: str, cache: int) -> int:
    """Cells of one product: few where a core works alone, since libraries take long to pack larger matrices first."""
    if device != "cpu" or cells * width > SMALL:
        return max(1, min(cells, cache // width))
    return min(cells, min(_TILES, key=lambda tile: -(-cells // tile) * tile))


def block_budget(device: str) -> int:
    """Most float64 numbers that the arrays of a block should hold."""
    return _BUDGET.get(device, _BUDGET["cpu"])


def n_features(d: int, full: bool) -> int:
    """Features of a cell: 1, x, and x x' or its diagonal."""
    return 1 + d + (d * (d + 1) // 2 if full else d)


@dataclass(frozen=True, eq=False)
class _Open:
    """Problems (B,) of a block that have not ended: what they are fitted with, and their last log-likelihood."""

    rows: NDArray[np.int64]
    state: State
    prior: PriorTerms | None
    spread: Tensor
    shift: Tensor
    before: Tensor

    def of(self, order: Tensor) -> _Open:
        """The problems at these positions."""
        prior = replace(self.prior, means=self.prior.means[order]) if self.prior else None
        return _Open(
            self.rows[order.cpu().numpy()], pick(self.state, order), prior, self.spread[order], self.shift[order],
            self.before[order],
        )  # fmt: skip


def _iterate(block: _Open, engine: Engine, settings: Settings, out: Output) -> None:
    """Alternate E and M until every problem has ended, and store each; those that have are dropped."""
    ended = torch.zeros_like(block.spread, dtype=torch.bool)
    for step in range(settings.max_iter + 1):
        likelihood, found = engine.expectation(block.state)
        if bool(ended.any()):
            # What ended in the last step is now known to be as likely as this.
            out.likelihood[block.rows[ended.cpu().numpy()]] = likelihood[ended].cpu().numpy()
            order = _closed_up(~ended)
            if not len(order):
                return
            engine.keep(order)
            block, likelihood, found = block.of(order), likelihood[order], pick(found, order)
        state, singular = maximise(found, block.prior, block.spread, settings.eps, settings.handling)
        small = (likelihood - block.before).abs() < settings.tol
        block = replace(block, state=state, before=likelihood)
        out.history[block.rows, step:] = likelihood.cpu().numpy()[:, None]
        ended = small | (step + 1 == settings.max_iter)
        if bool(ended.any()):
            done = block.rows[ended.cpu().numpy()]
            out.n_iter[done], out.converged[done] = step + 1, small[ended].cpu().numpy()
            out.store(done, pick(state, ended), singular[ended], block.shift[ended])


def _closed_up(stays: Tensor) -> Tensor:
    """Positions (C,) of those that stay: the first C at their own, the others in the gaps among these."""
    count = int(stays.sum())
    order = torch.arange(count, device=stays.device)
    order[~stays[:count]] = count + stays[count:].nonzero().squeeze(1)
    return order


def _random(problems: Problems, rows: NDArray[np.int64], k: int, seed: int) -> Tensor:
    """(B, k, trials) uniform numbers that depend on the seed, k, the patient and the restart alone."""
    state = np.random.SeedSequence((seed, k)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    many, starts = int(problems.patient.max()) + 1, int(problems.restart.max()) + 1
    numbers = torch.rand((starts, many, k, n_trials(k)), generator=generator, dtype=torch.float64)
    return numbers[torch.from_numpy(problems.restart[rows]), torch.from_numpy(problems.patient[rows])]


def _from_kmeans(
    engine: Engine, k: int, random: Tensor, prior: PriorTerms | None, spread: Tensor, settings: Settings
) -> State:
    """Parameters from the clusters of k-means."""
    found = engine.moments(*kmeans_start(engine.x, engine.weight, k, random))
    return maximise(found, prior, spread, settings.eps, "guarded")[0]


def _from_mixtures(start: Mixtures, patients: NDArray[np.int64], k: int, shift: Tensor) -> State:
    """Parameters of given mixtures, one for each patient or one for all."""
    rows = patients if len(start) > 1 else np.zeros_like(patients)
    weights, means, covariances = (
        torch.from_numpy(part[rows, :k]).to(shift) for part in (start.weights, start.means, start.covariances)
    )
    factor = torch.linalg.cholesky(covariances) if covariances.ndim == 4 else covariances.sqrt()
    return State(weights, means - shift[:, None], covariances, factor)


def _terms(prior: Prior, shift: Tensor) -> PriorTerms:
    weights, means, covariances = (
        torch.from_numpy(part).to(shift) for part in (prior.weights, prior.means, prior.covariances)
    )
    return PriorTerms(weights[None], means - shift[:, None], covariances[None], prior.nu)


def check_choice(name: str, value: object, options: Sequence[object]) -> None:
    if value not in options:
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, options))}.")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number, at least 1.")
