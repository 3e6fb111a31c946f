"""Expectation-maximisation of the Gaussian mixtures of all patients at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport.gmm._clouds import Clouds, as_cells, as_codes, as_weight, blocks, make_clouds
from muport.gmm._mixture import CovarianceType, Mixtures, log_density, responsibilities
from muport.gmm._prior import NU, Prior, spread_over
from muport.gmm._starts import kmeans_start, n_trials
from muport.gmm._steps import Direct, Engine, Features, PriorTerms, State, maximise, pick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "EMResult", "Prior", "SingularityHandling", "fit_candidates", "fit_mixtures", "log_density", "pooled_prior",
    "responsibilities",
]  # fmt: skip

type SingularityHandling = Literal["guarded", "robust", "strict"]

_BUDGET = {"cpu": 2**21, "cuda": 2**27}  # float64 numbers of a block: what the caches of a core, or a device, hold
_FAR = 1e10  # squared size of the data over eps, up to which moments about 0 are exact enough
_MOST = 2**25  # features of a block: 256 MiB
_DROP = 0.75  # a block is repacked when so few of its problems are still open


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
        _check_choice("covariance_type", self.covariance_type, ("full", "diag"))
        _check_choice("singularity_handling", self.handling, ("guarded", "robust", "strict"))
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


def fit_mixtures(
    x: ArrayLike,
    sample: ArrayLike | None,
    k: int | NDArray[np.int64],
    *,
    weight: ArrayLike | None = None,
    covariance_type: CovarianceType = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    n_init: int = 1,
    eps: float = 1e-4,
    prior: Prior | Mapping[int, Prior] | None = None,
    init: Mixtures | None = None,
    singularity_handling: SingularityHandling = "guarded",
    names: Sequence[str] | None = None,
    random_state: int = 0,
    device: str = "cpu",
) -> EMResult:
    """Fit a Gaussian mixture to the cells of every patient, all patients at once.

    Dempster, Laird & Rubin (1977); with a prior the maximum a posteriori of Fraley & Raftery (2007). A patient's
    fit ends when its mean log-likelihood per cell has changed by less than ``tol``, as in scikit-learn. Time is
    O(n K d^2) an iteration, memory O(n d) plus a block of at most half a gigabyte. The same seed gives the same result.

    Parameters
    ----------
    x
        (n, d) cells.
    sample
        (n,) patient of each cell, 0 to P - 1; None for a single one.
    k
        Components of every patient, or (P,) of each. With fewer distinct cells than components the rest is padding.
    weight
        (n,) weights >= 0: a cell of weight 2 counts as two.
    covariance_type
        ``"full"`` or ``"diag"``.
    max_iter
        Most iterations.
    tol
        Change of the mean log-likelihood of a cell, nats, below which a patient's fit ends.
    n_init
        Starts; the fit of highest likelihood is kept.
    eps
        Added to the diagonal of every covariance.
    prior
        Pooled mixture to shrink to and to start from, one for each number of components that ``k`` asks for; None
        for maximum likelihood from a k-means++ start.
    init
        Start of every patient, (P, K, ...) or one for all.
    singularity_handling
        What to do about a component whose covariance is singular without ``eps``: ``"guarded"`` continues, adding to
        the diagonal only where a Cholesky factor fails; ``"robust"`` adds a hundredth of the patient's mean
        variance to it and warns; ``"strict"`` refuses such a fit.
    names
        (P,) names of the patients in messages; their codes by default.
    random_state
        Seed of the starts.
    device
        Where to compute.

    Returns
    -------
    EMResult
        Mixtures, likelihoods and how the iterations ended.

    Raises
    ------
    TypeError, ValueError
        For inputs that do not fit each other, and for a singular component under ``"strict"``.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm._em import fit_mixtures
    >>> x = np.array([[0.0], [1.0], [10.0], [11.0], [5.0], [7.0]])
    >>> found = fit_mixtures(x, [0, 0, 0, 0, 1, 1], np.array([2, 1]))
    >>> np.sort(found.mixtures.means[0, :, 0]).round(3).tolist(), found.mixtures.n_components.tolist()
    ([0.5, 10.5], [2, 1])
    """
    settings = Settings(covariance_type, max_iter, tol, n_init, eps, singularity_handling, random_state)
    clouds = make_clouds(x, sample, weight, device)
    number = _numbers(k, len(clouds.size))
    return _fit(clouds, number[:, None], settings, prior, init, names)[0]


def fit_candidates(
    x: ArrayLike,
    sample: ArrayLike | None,
    candidates: Sequence[int],
    *,
    weight: ArrayLike | None = None,
    covariance_type: CovarianceType = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    n_init: int = 1,
    eps: float = 1e-4,
    prior: Mapping[int, Prior] | None = None,
    singularity_handling: SingularityHandling = "guarded",
    names: Sequence[str] | None = None,
    random_state: int = 0,
    device: str = "cpu",
) -> tuple[EMResult, ...]:
    """Fit every number of components to every patient; all parameters but ``candidates`` as in `fit_mixtures`.

    Parameters
    ----------
    candidates
        Numbers of components.

    Returns
    -------
    tuple of EMResult
        One for each candidate.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm._em import fit_candidates
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> [len(one.mixtures.weights[0]) for one in fit_candidates(x, None, (1, 2))]
    [1, 2]
    """
    settings = Settings(covariance_type, max_iter, tol, n_init, eps, singularity_handling, random_state)
    clouds = make_clouds(x, sample, weight, device)
    number = np.stack([_numbers(k, len(clouds.size)) for k in candidates], axis=1)
    return _fit(clouds, number, settings, prior, None, names)


def pooled_prior(
    x: ArrayLike,
    sample: ArrayLike | None,
    candidates: Sequence[int],
    *,
    weight: ArrayLike | None = None,
    covariance_type: CovarianceType = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    eps: float = 1e-4,
    nu: float = NU,
    max_cells: int = 20_000,
    random_state: int = 0,
    device: str = "cpu",
) -> dict[int, Prior]:
    """Fit the mixtures of all patients' cells together, to shrink each patient's mixture to.

    Parameters
    ----------
    x, sample, weight, covariance_type, max_iter, tol, eps, random_state, device
        As for `fit_mixtures`.
    candidates
        Numbers of components to fit a prior for.
    nu
        Cells that the pooled mixture counts, see `Prior`.
    max_cells
        Most cells to fit on, drawn evenly over patients.

    Returns
    -------
    dict
        A `Prior` for each number of components; components that held no cells have the pooled covariance of all cells.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm._em import fit_mixtures, pooled_prior
    >>> x, sample = np.random.default_rng(0).normal(size=(90, 5)), np.repeat([0, 1, 2], 30)
    >>> prior = pooled_prior(x, sample, [2])
    >>> fit_mixtures(x, sample, 2, prior=prior).mixtures.means.shape
    (3, 2, 5)
    """
    cells = as_cells(x)
    codes = as_codes(sample, len(cells))
    mass = as_weight(weight, codes)
    rows = spread_over(codes, max_cells, random_state)
    rows = rows[mass[rows] > 0]
    fits = fit_candidates(
        cells[rows], None, candidates, weight=mass[rows], covariance_type=covariance_type, max_iter=max_iter, tol=tol,
        eps=eps, random_state=random_state, device=device,
    )  # fmt: skip
    return {int(k): _as_prior(fit.mixtures, cells[rows], nu) for k, fit in zip(candidates, fits, strict=True)}


def _as_prior(mixtures: Mixtures, x: NDArray[np.float64], nu: float) -> Prior:
    weights, means, covariances = mixtures.weights[0], mixtures.means[0].copy(), mixtures.covariances[0].copy()
    none = weights == 0
    if none.any():
        whole = np.atleast_2d(np.cov(x.T, bias=True)) + mixtures.eps * np.eye(x.shape[1])
        means[none], covariances[none] = x.mean(0), whole if covariances.ndim == 3 else whole.diagonal()
    return Prior(weights, means, covariances, mixtures.covariance_type, nu)


def _fit(
    clouds: Clouds,
    number: NDArray[np.int64],
    settings: Settings,
    prior: Prior | Mapping[int, Prior] | None,
    init: Mixtures | None,
    names: Sequence[str] | None,
) -> tuple[EMResult, ...]:
    """One result for each column of ``number`` (P, C)."""
    p, c = number.shape
    d = clouds.x.shape[1]
    patient, column, restart = (part.ravel() for part in np.indices((p, c, settings.n_init)))
    problems = Problems(patient, number[patient, column], restart)
    priors = _priors(prior, np.unique(number), d, settings.covariance_type)
    _check_init(init, p, number, d, settings.covariance_type)
    out = _Output(len(problems), int(number.max()), d, settings)
    kind = problems.k * 2 + (restart > 0)
    features = _n_features(d, settings.covariance_type == "full")
    budget = _BUDGET.get(clouds.x.device.type, _BUDGET["cpu"])
    for rows in blocks(clouds.size[patient], kind, np.full(len(problems), features), budget):
        _solve(rows, clouds, problems, settings, priors, init, out, budget)
    # The best start of each patient and candidate.
    best = out.likelihood.reshape(p, c, -1).argmax(axis=2) + np.arange(p * c).reshape(p, c) * settings.n_init
    _report(best, out, settings.handling, names)
    return tuple(out.result(best[:, j], int(number[:, j].max())) for j in range(c))


class _Output:
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


def _solve(
    rows: NDArray[np.int64],
    clouds: Clouds,
    problems: Problems,
    settings: Settings,
    priors: Mapping[int, Prior],
    init: Mixtures | None,
    out: _Output,
    budget: int,
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
    engine = _engine(x, weight, settings, budget)
    state = (
        _from_mixtures(start, patients, k, shift)
        if start is not None
        else _from_kmeans(engine, k, _random(problems, rows, k, settings.seed).to(x.device), prior, spread, settings)
    )
    final = _iterate(rows, engine, state, prior, spread, shift, settings, out)
    out.likelihood[rows] = engine.expectation(final)[0].cpu().numpy()


def _engine(x: Tensor, weight: Tensor, settings: Settings, budget: int) -> Engine:
    """The faster of the two, where it is exact enough and its features fit in memory."""
    full = settings.covariance_type == "full"
    d = x.shape[2]
    # Moments about 0 lose as many digits as the cells lie far out in units of the smallest possible variance.
    near = bool(x.abs().max() ** 2 <= _FAR * settings.eps)
    if near and weight.numel() * _n_features(d, full) <= _MOST:
        return Features(x, weight, full)
    return Direct(x, weight, full, budget)


def _n_features(d: int, full: bool) -> int:
    return 1 + d + (d * (d + 1) // 2 if full else d)


def _iterate(
    rows: NDArray[np.int64],
    engine: Engine,
    state: State,
    prior: PriorTerms | None,
    spread: Tensor,
    shift: Tensor,
    settings: Settings,
    out: _Output,
) -> State:
    """Alternate E and M until every problem has ended, dropping those that have; the last state of each problem."""
    final = State(*(torch.empty_like(part) for part in vars(state).values()))
    place = torch.arange(len(rows), device=shift.device)
    still = torch.ones_like(place, dtype=torch.bool)
    before = torch.full_like(spread, torch.inf)
    for step in range(settings.max_iter):
        likelihood, found = engine.expectation(state)
        state, singular = maximise(found, prior, spread, settings.eps, settings.handling)
        small = (likelihood - before).abs() < settings.tol
        before = likelihood
        out.history[rows[place[still].cpu().numpy()], step:] = likelihood[still].cpu().numpy()[:, None]
        ends = still & (small | (step + 1 == settings.max_iter))
        if bool(ends.any()):
            done = rows[place[ends].cpu().numpy()]
            out.n_iter[done], out.converged[done] = step + 1, small[ends].cpu().numpy()
            part = pick(state, ends)
            out.store(done, part, singular[ends], shift[place[ends]])
            for whole, values in zip(vars(final).values(), vars(part).values(), strict=True):
                whole[place[ends]] = values
            still = still & ~ends
            if not bool(still.any()):
                break
        if int(still.sum()) <= _DROP * len(still):
            keep = still.nonzero().squeeze(1)
            engine, state, prior = engine.pick(keep), pick(state, keep), pick(prior, keep) if prior else None
            place, before, spread = place[keep], before[keep], spread[keep]
            still = still[keep]
    return final


def _random(problems: Problems, rows: NDArray[np.int64], k: int, seed: int) -> Tensor:
    """(B, k, trials) uniform numbers that depend on the seed and on each problem's number alone."""
    generator = torch.Generator().manual_seed(seed)
    trials = n_trials(k)
    numbers = torch.rand((len(problems), k, trials), generator=generator, dtype=torch.float64)
    return numbers[torch.from_numpy(rows)]


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
    many = len(shift)
    return PriorTerms(
        weights.expand(many, -1), means - shift[:, None], covariances.expand(many, *covariances.shape), prior.nu
    )  # fmt: skip


def _report(best: NDArray[np.int64], out: _Output, handling: str, names: Sequence[str] | None) -> None:
    """Refuse or tell of singular components among the fits that are kept."""
    found = np.argwhere(out.singular[best])
    if not len(found) or handling == "guarded":
        return
    patient, _, component = found[0]
    first = f"component {component} of sample {patient if names is None else names[patient]!r}"
    if handling == "strict":
        raise ValueError(
            f"The covariance of {first} is singular ({len(found)} such in all): ask for fewer components or "
            "dimensions, or for singularity_handling='guarded' or 'robust'."
        )
    warnings.warn(
        f"{len(found)} singular covariances were stabilised, the first of them that of {first}.",
        RuntimeWarning, stacklevel=4,
    )  # fmt: skip


def _numbers(k: int | NDArray[np.int64], n_patients: int) -> NDArray[np.int64]:
    """(P,) components of each patient."""
    number = np.asarray(k)
    if number.dtype.kind not in "iu":
        raise TypeError(f"k={k!r} must be a whole number of components, or an array of them, one for each patient.")
    if number.ndim and number.shape != (n_patients,):
        raise ValueError(f"k has shape {number.shape}, but there are {n_patients} patients.")
    if number.min() < 1:
        raise ValueError(f"k={number.min()} must be at least 1.")
    return np.broadcast_to(number, n_patients).astype(np.int64)


def _priors(
    prior: Prior | Mapping[int, Prior] | None, numbers: NDArray[np.int64], d: int, covariance_type: str
) -> Mapping[int, Prior]:
    """The prior of each number of components."""
    if prior is None:
        return {}
    found = {len(prior.weights): prior} if isinstance(prior, Prior) else prior
    for k in numbers.tolist():
        if k not in found or len(found[k].weights) != k:
            raise ValueError(f"There is no prior of {k} components: fit one with pooled_prior for each k.")
        if found[k].means.shape[1] != d or found[k].covariance_type != covariance_type:
            raise ValueError(
                f"The prior of {k} components has {found[k].means.shape[1]} dimensions and "
                f"{found[k].covariance_type} covariances, but {d} and {covariance_type} are to be fitted."
            )
    return found


def _check_init(
    init: Mixtures | None, p: int, number: NDArray[np.int64], d: int, covariance_type: CovarianceType
) -> None:
    if init is None:
        return
    if len(init) not in (1, p) or init.means.shape[1:] != (int(number.max()), d):
        raise ValueError(
            f"init holds {len(init)} mixtures with means {init.means.shape[1:]}: "
            f"it must hold 1 or {p} with {(int(number.max()), d)}."
        )
    if init.covariance_type != covariance_type or (number != number.flat[0]).any():
        raise ValueError("init must have the covariance_type to be fitted, and needs one k for all patients.")


def _check_choice(name: str, value: object, options: Sequence[object]) -> None:
    if value not in options:
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, options))}.")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number, at least 1.")
