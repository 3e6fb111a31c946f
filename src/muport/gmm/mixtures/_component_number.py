"""Numbers of components: every candidate fitted to every patient, scored, and the best kept."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from muport.gmm.mixtures._em import EMResult, fit_candidates, fit_mixtures
from muport.gmm.mixtures._em_blocks import check_choice
from muport.gmm.mixtures._mixtures import Mixtures, mean_log_likelihood, responsibilities
from muport.gmm.mixtures._patient_cells import as_cells, as_codes, as_weight
from muport.gmm.mixtures._pooled_prior import pooled_prior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._em_blocks import SingularityHandling
    from muport.gmm.mixtures._mixtures import CovarianceType
    from muport.gmm.mixtures._pooled_prior import Prior

__all__ = ["DEFAULT_COMPONENTS", "Selected", "select_mixtures"]

DEFAULT_COMPONENTS = tuple(range(1, 11))

type Sharing = Literal["sample_specific", "global", "auto"]
type Criterion = Literal["aic", "bic", "heldout_nll"]


@dataclass(frozen=True, eq=False)
class Selected:
    """Mixtures of P patients with chosen numbers of components.

    Attributes
    ----------
    mixtures
        The mixtures, padded to the largest number. With ``sharing="global"`` all have the same means and covariances.
    best_k
        (P,) number of components asked for.
    candidates
        (C,) numbers that were tried.
    scores
        (P, C) of ``"aic"``, ``"bic"`` and ``"heldout_nll"`` (nats per cell), lower is better; empty where k was given.
        A shared mixture has one score, repeated.
    sharing
        ``"sample_specific"`` or ``"global"``.
    fit
        The fit that the mixtures come from: likelihoods, convergence, iterations. One row for a shared mixture.
    prior
        The pooled mixtures they were shrunk to, by number of components; empty without shrinkage.
    train
        (n,) which cells the mixtures were fitted on.
    """

    mixtures: Mixtures
    best_k: NDArray[np.int64]
    candidates: tuple[int, ...]
    scores: dict[str, NDArray[np.float64]]
    sharing: str
    fit: EMResult
    prior: Mapping[int, Prior]
    train: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells (n, d), the patient whose mixture each is under, and weights."""

    x: NDArray[np.float64]
    sample: NDArray[np.int64]
    weight: NDArray[np.float64]

    def of(self, rows: NDArray[np.bool_]) -> _Cells:
        return _Cells(self.x[rows], self.sample[rows], self.weight[rows])


def select_mixtures(
    x: ArrayLike,
    sample: ArrayLike | None,
    *,
    component_sharing: Sharing = "sample_specific",
    k_comps: int | Sequence[int] | None = None,
    k_selection_metric: Criterion = "aic",
    refit: Literal["none", "full"] = "none",
    covariance_type: CovarianceType = "full",
    train_size: float = 0.5,
    max_iter: int = 100,
    tol: float = 1e-3,
    n_init: int = 1,
    eps: float = 1e-4,
    singularity_handling: SingularityHandling = "guarded",
    shrinkage: float | bool = True,
    common_k: bool = False,
    weight: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    random_state: int = 0,
    device: str = "cpu",
) -> Selected:
    """Fit mixtures of a given number of components, or of the best of several, chosen for each patient.

    With several candidates each patient's cells are split at random; all candidates are fitted to the training part
    and scored by Akaike's (1974) or Schwarz's (1978) criterion there, AIC = -2 L + 2 p and BIC = -2 L + p log n, or
    by the mean negative log-likelihood of a cell of the other part.

    Parameters
    ----------
    x
        (n, d) cells.
    sample
        (n,) patient of each cell, 0 to P - 1.
    component_sharing
        ``"sample_specific"``: a mixture for each patient; ``"global"``: one for all, in which a patient's weights are
        its mean responsibilities; ``"auto"``: global if all patients' cells stand at the same points, else
        sample-specific.
    k_comps
        Components, or candidates; 1 to 10 by default.
    k_selection_metric
        ``"aic"``, ``"bic"`` or ``"heldout_nll"``.
    refit
        With several candidates: ``"none"`` keeps the mixtures of the training cells, ``"full"`` fits the best number
        to all cells.
    train_size
        Share of each patient's cells to train on while choosing, in (0, 1); at least one cell.
    shrinkage
        Cells that the mixture of all patients counts in each patient's own (`Prior`); True for twice the dimensions,
        at least 20, False or 0 for plain maximum likelihood. A shared mixture is never shrunk.
    common_k
        With several candidates: choose one number for all patients, that of the best mean score.
    covariance_type, max_iter, tol, n_init, eps, singularity_handling, weight, names, random_state, device
        As for `fit_mixtures`.

    Returns
    -------
    Selected
        Mixtures, chosen numbers and scores.

    Raises
    ------
    ValueError
        For an unknown option, candidates below 1 or repeated, a train size outside (0, 1), a patient with too few
        cells to hold some out, or a singular component under ``"strict"``.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._component_number import select_mixtures
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 2)) + 20 * rng.integers(0, 2, (400, 1))
    >>> found = select_mixtures(x, np.repeat([0, 1], 200), k_comps=(1, 2, 3), k_selection_metric="bic")
    >>> found.best_k.tolist()
    [2, 2]
    """
    check_choice("component_sharing", component_sharing, ("sample_specific", "global", "auto"))
    check_choice("k_selection_metric", k_selection_metric, ("aic", "bic", "heldout_nll"))
    check_choice("refit", refit, ("none", "full"))
    candidates, several = _candidates(k_comps)
    cells = as_cells(x)
    codes = as_codes(sample, len(cells))
    mass = as_weight(weight, codes)
    sharing = component_sharing if component_sharing != "auto" else _auto(cells, codes)
    shared = sharing == "global"
    every = _Cells(cells, np.zeros_like(codes) if shared else codes, mass)
    options: dict[str, Any] = {
        "covariance_type": covariance_type, "max_iter": max_iter, "tol": tol, "n_init": n_init, "eps": eps,
        "singularity_handling": singularity_handling, "random_state": random_state, "device": device,
        "names": ("all samples",) if shared else names,
    }  # fmt: skip
    nu = 0.0 if shared else _strength(shrinkage)
    if several:
        train = _split(
            codes, mass, train_size, random_state, names, hold_out=k_selection_metric == "heldout_nll" and not common_k
        )
        fit, column, scores, prior = _choose(every, train, candidates, k_selection_metric, common_k, nu, options)
    else:
        train, scores = np.ones(len(codes), bool), {}
        column = np.zeros(every.sample.max() + 1, np.int64)
    best = np.asarray(candidates)[column]
    if not several or refit == "full":
        train = np.ones(len(codes), bool)
        fit, prior = _fit(every, best, nu, options)
    mixtures = fit.mixtures
    if shared:
        mixtures, best = _shared(every.of(train), codes[train], mixtures, device), np.repeat(best, codes.max() + 1)
        scores = {name: np.repeat(score, codes.max() + 1, axis=0) for name, score in scores.items()}
    return Selected(mixtures, best, candidates, scores, sharing, fit, prior, train)


def _fit(
    cells: _Cells, best: NDArray[np.int64], nu: float | None, options: dict[str, Any]
) -> tuple[EMResult, Mapping[int, Prior]]:
    """Fit given numbers of components to all cells."""
    prior = _prior(cells, sorted(set(best.tolist())), nu, options)
    fit = fit_mixtures(cells.x, cells.sample, best, weight=cells.weight, prior=prior or None, **options)
    return fit, prior


def _choose(
    cells: _Cells,
    train: NDArray[np.bool_],
    candidates: tuple[int, ...],
    criterion: str,
    common: bool,
    nu: float | None,
    options: dict[str, Any],
) -> tuple[EMResult, NDArray[np.int64], dict[str, NDArray[np.float64]], Mapping[int, Prior]]:
    """Fit all candidates to the training cells; the best column of each patient and its fit."""
    part = cells.of(train)
    prior = _prior(part, candidates, nu, options)
    # A candidate that is not chosen may be singular without harm.
    strict = options["singularity_handling"] == "strict"
    tried = options | ({"singularity_handling": "guarded"} if strict else {})
    fits = fit_candidates(part.x, part.sample, candidates, weight=part.weight, prior=prior or None, **tried)
    scores = _scores(fits, part, cells.of(~train), options["device"])
    score = scores[criterion]
    column = score.argmin(axis=1) if not common else np.full(len(score), score.mean(axis=0).argmin())
    best = np.asarray(candidates)[column]
    if strict:
        again = fit_mixtures(part.x, part.sample, best, weight=part.weight, prior=prior or None, **options)
        return again, column, scores, prior
    return _merge(fits, column), column, scores, prior


def _scores(fits: Sequence[EMResult], train: _Cells, rest: _Cells, device: str) -> dict[str, NDArray[np.float64]]:
    """(P, C) criteria; held-out patients without cells (there are none where that criterion decides) score 0."""
    n = np.bincount(train.sample, train.weight)[:, None]
    total = np.stack([fit.log_likelihood for fit in fits], axis=1) * n
    p = np.stack([fit.mixtures.n_parameters() for fit in fits], axis=1)
    out = {"aic": -2 * total + 2 * p, "bic": -2 * total + p * np.log(np.maximum(n, 1.0))}
    if len(rest.x):
        nll = [
            -mean_log_likelihood(rest.x, fit.mixtures, rest.sample, weight=rest.weight, device=device) for fit in fits
        ]
        out["heldout_nll"] = np.stack(nll, axis=1)
    return out


def _merge(fits: Sequence[EMResult], column: NDArray[np.int64]) -> EMResult:
    """For each patient the fit of its column."""
    rows = np.arange(len(column))
    k = max(fits[j].mixtures.means.shape[1] for j in column)
    wide = [fit.mixtures.padded(k) for fit in fits if fit.mixtures.means.shape[1] <= k]
    place = np.cumsum([fit.mixtures.means.shape[1] <= k for fit in fits]) - 1
    mixtures = Mixtures.stack(wide).subset(place[column] * len(column) + rows)
    steps = max(fit.history.shape[1] for fit in fits)
    history = np.stack([np.pad(fit.history, ((0, 0), (0, steps - fit.history.shape[1])), "edge") for fit in fits])
    parts = {
        name: np.stack([getattr(fit, name) for fit in fits])[column, rows]
        for name in ("log_likelihood", "converged", "n_iter", "n_singular")
    }
    return EMResult(mixtures, history=history[column, rows], **parts)


def _prior(cells: _Cells, candidates: Sequence[int], nu: float | None, options: dict[str, Any]) -> Mapping[int, Prior]:
    """The pooled mixture for each candidate, empty for plain maximum likelihood."""
    if nu == 0:
        return {}
    names = ("covariance_type", "max_iter", "tol", "eps", "random_state", "device")
    chosen = {name: options[name] for name in names}
    return pooled_prior(cells.x, cells.sample, candidates, weight=cells.weight, nu=nu, **chosen)


def _shared(cells: _Cells, codes: NDArray[np.int64], mixtures: Mixtures, device: str) -> Mixtures:
    """Give each patient the shared components, weighted by its mean responsibilities."""
    r = responsibilities(cells.x, mixtures, device=device) * cells.weight[:, None]
    p, k = int(codes.max()) + 1, r.shape[1]
    total = np.stack([np.bincount(codes, r[:, j], minlength=p) for j in range(k)], axis=1)
    return Mixtures(
        total / total.sum(axis=1, keepdims=True), np.repeat(mixtures.means, p, axis=0),
        np.repeat(mixtures.covariances, p, axis=0), mixtures.covariance_type, mixtures.eps,
    )  # fmt: skip


def _auto(x: NDArray[np.float64], codes: NDArray[np.int64]) -> str:
    """``"global"`` if every patient has the same points, as centroids with weights have."""
    size = np.bincount(codes)
    if len(size) < 2 or (size != size[0]).any():
        return "sample_specific"
    clouds = x[np.argsort(codes, kind="stable")].reshape(len(size), size[0], -1)
    return "global" if (clouds == clouds[:1]).all() else "sample_specific"


def _split(
    codes: NDArray[np.int64],
    weight: NDArray[np.float64],
    train_size: float,
    seed: int,
    names: Sequence[str] | None,
    hold_out: bool,
) -> NDArray[np.bool_]:
    """Which cells to train on: the same share of every patient, at least one cell of positive weight."""
    if not 0 < train_size < 1:
        raise ValueError(f"train_size={train_size} must lie between 0 and 1, both excluded.")
    size = np.bincount(codes, weight > 0).astype(np.int64)
    if hold_out and size.min() < 2:
        patient = int(size.argmin())
        raise ValueError(
            f"sample {patient if names is None else names[patient]!r} has {size[patient]} cell of positive weight: "
            "k_selection_metric='heldout_nll' needs two; use 'aic' or 'bic', or give one k_comps."
        )
    number = np.clip(np.round(train_size * size), 1, np.maximum(size - hold_out, 1))
    # Cells without weight come last, so that those in front are spread over both parts.
    order = np.lexsort((np.random.default_rng(seed).random(len(codes)), weight <= 0, codes))
    start = np.concatenate([[0], np.cumsum(np.bincount(codes))[:-1]])
    train = np.zeros(len(codes), bool)
    train[order] = np.arange(len(codes)) - start[codes[order]] < number[codes[order]]
    return train


def _candidates(k_comps: int | Sequence[int] | None) -> tuple[tuple[int, ...], bool]:
    """Numbers of components to try, and whether there is anything to choose."""
    several = k_comps is None or not isinstance(k_comps, numbers.Number)
    listed = DEFAULT_COMPONENTS if k_comps is None else k_comps if several else (k_comps,)
    candidates: tuple[Any, ...] = tuple(cast("Sequence[Any]", listed))
    whole = all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in candidates)
    if not whole or not candidates or min(candidates) < 1 or len(set(candidates)) < len(candidates):
        raise ValueError(f"k_comps={k_comps!r} must be a number of components >= 1, or several distinct ones.")
    return tuple(int(k) for k in candidates), several


def _strength(shrinkage: float | bool) -> float | None:
    """Cells the prior counts; None for the rule of `pooled_prior`."""
    if isinstance(shrinkage, bool | np.bool_):
        return None if shrinkage else 0.0
    if not 0 <= shrinkage < np.inf:
        raise ValueError(f"shrinkage={shrinkage} must be True, False, or a number of cells >= 0.")
    return float(shrinkage)
