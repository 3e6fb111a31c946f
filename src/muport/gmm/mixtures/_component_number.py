"""The number of components: all candidates are fitted to every patient and scored, and the best one is kept."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from numbers import Number
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from muport._checks import check_option
from muport.gmm.mixtures._em import EMResult, fit_mixture_candidates, fit_mixtures
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._mixtures import Mixtures, mean_log_likelihood, responsibilities
from muport.gmm.mixtures._patient_cells import check_cells, check_codes, check_weights
from muport.gmm.mixtures._pooled_prior import fit_pooled_priors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._pooled_prior import Prior

__all__ = ["DEFAULT_COMPONENTS", "SelectedMixtures", "SelectionSettings", "select_mixtures", "shares_components"]

DEFAULT_COMPONENTS = tuple(range(1, 11))

type Sharing = Literal["sample_specific", "global", "auto"]
type Criterion = Literal["aic", "bic", "heldout_nll"]


@dataclass(frozen=True)
class SelectionSettings:
    """How the mixtures of a cohort are fitted and their numbers of components chosen.

    - `component_sharing`: ``"sample_specific"``: one mixture per patient. ``"global"``: one mixture for all patients,
      in which the weights of a patient are its mean responsibilities. ``"auto"``: global if all patients have the same
      points, else sample-specific.
    - `k_comps`: Number of components, or candidates; 1 to 10 by default.
    - `k_selection_metric`: ``"aic"``, ``"bic"`` or ``"heldout_nll"``.
    - `refit`: With several candidates: ``"none"`` keeps the mixtures of the training cells, ``"full"`` fits the chosen
      number to all cells.
    - `train_size`: Fraction of each patient's cells to fit the candidates on, between 0 and 1; at least one cell.
    - `shrinkage`: Number of cells that the mixture of all patients counts as in each patient's own (`Prior`). True:
      twice the number of dimensions, at least 20. False or 0: maximum likelihood. A shared mixture is never shrunk.
    - `common_k`: With several candidates: choose one number for all patients, that of the best mean score.
    - `em`: Options of EM.
    """

    component_sharing: Sharing = "sample_specific"
    k_comps: int | Sequence[int] | None = None
    k_selection_metric: Criterion = "aic"
    refit: Literal["none", "full"] = "none"
    train_size: float = 0.5
    shrinkage: float | bool = True
    common_k: bool = False
    em: EMSettings = EMSettings()

    def __post_init__(self) -> None:
        check_option("component_sharing", self.component_sharing, ("sample_specific", "global", "auto"))
        check_option("k_selection_metric", self.k_selection_metric, ("aic", "bic", "heldout_nll"))
        check_option("refit", self.refit, ("none", "full"))
        integers = all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in self.candidates)
        if not self.candidates or not integers or min(self.candidates) < 1 or self.repeated:
            raise ValueError(
                f"k_comps={self.k_comps!r} must be a number of components >= 1, or several distinct ones."
            )  # fmt: skip
        if not 0 < self.train_size < 1:
            raise ValueError(f"train_size={self.train_size} must lie between 0 and 1, both excluded.")
        if not isinstance(self.shrinkage, bool | np.bool_) and not 0 <= self.shrinkage < np.inf:
            raise ValueError(f"shrinkage={self.shrinkage} must be True, False, or a number of cells >= 0.")

    @classmethod
    def from_options(cls, options: Mapping[str, Any], device: str = "cpu") -> SelectionSettings:
        """Settings from one mapping with the options of both the choice and EM."""
        names = {field.name for field in fields(EMSettings)}
        em = EMSettings(**{name: value for name, value in options.items() if name in names}, device=device)
        return cls(**{name: value for name, value in options.items() if name not in names}, em=em)

    @property
    def several(self) -> bool:
        """Whether there are candidates to choose from; a list of one candidate is split and scored, too."""
        return not isinstance(self.k_comps, Number)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Numbers of components to fit."""
        if self.k_comps is None:
            return DEFAULT_COMPONENTS
        return tuple(cast("Sequence[int]", self.k_comps)) if self.several else (cast("int", self.k_comps),)

    @property
    def repeated(self) -> bool:
        """Whether a candidate occurs twice."""
        return len(set(self.candidates)) < len(self.candidates)

    @property
    def nu(self) -> float | None:
        """Number of cells that the prior counts as; None for the default of `fit_pooled_priors`."""
        if isinstance(self.shrinkage, bool | np.bool_):
            return None if self.shrinkage else 0.0
        return float(self.shrinkage)


@dataclass(frozen=True, eq=False)
class SelectedMixtures:
    """Mixtures of P patients with the chosen numbers of components.

    - `mixtures`: The mixtures, padded to the largest number. With ``sharing="global"`` all have the same means and
      covariances.
    - `best_k`: (P,) chosen number of components.
    - `candidates`: Numbers of components that were fitted.
    - `scores`: (P, C) of ``"aic"``, ``"bic"`` and ``"heldout_nll"`` (nats per cell), lower is better; empty if k was
      given. The score of a shared mixture is repeated for all patients.
    - `sharing`: ``"sample_specific"`` or ``"global"``.
    - `fit`: The fit of the mixtures: likelihoods, convergence, iterations. One row for a shared mixture.
    - `prior`: Pooled mixtures that these were shrunk to, by number of components; empty without shrinkage.
    - `train`: (n,) which cells the mixtures were fitted on.
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
class _WeightedCells:
    """Cells (n, d), the patient of each, weights, and the names of the patients in messages."""

    x: NDArray[np.float64]
    sample: NDArray[np.int64]
    weight: NDArray[np.float64]
    names: Sequence[str] | None

    def subset(self, rows: NDArray[np.bool_]) -> _WeightedCells:
        return _WeightedCells(self.x[rows], self.sample[rows], self.weight[rows], self.names)


def select_mixtures(
    x: ArrayLike,
    sample: ArrayLike | None,
    settings: SelectionSettings = SelectionSettings(),
    *,
    weight: ArrayLike | None = None,
    names: Sequence[str] | None = None,
) -> SelectedMixtures:
    """Fit mixtures of a given number of components, or of the best of several candidates for each patient.

    With several candidates the cells of each patient are split at random. All candidates are fitted to the training
    cells and scored there by the criterion of Akaike (1974) or Schwarz (1978), AIC = -2 L + 2 p and
    BIC = -2 L + p log n, or by the mean negative log-likelihood of the other cells.

    - `x`: (n, d) cells.
    - `sample`: (n,) patient of each cell, 0 to P - 1; None for a single patient.
    - `settings`: Options of the choice and of EM.
    - `weight`, `names`: As for `fit_mixtures`.

    Returns mixtures, chosen numbers and scores. Raises ValueError for a patient with too few cells to hold some out, or
    a singular component under ``"strict"``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 2)) + 20 * rng.integers(0, 2, (400, 1))
    >>> settings = SelectionSettings(k_comps=(1, 2, 3), k_selection_metric="bic")
    >>> select_mixtures(x, np.repeat([0, 1], 200), settings).best_k.tolist()
    [2, 2]
    """
    cells = check_cells(x)
    codes = check_codes(sample, len(cells))
    weights = check_weights(weight, codes)
    shared = shares_components(cells, codes, settings)
    data = _WeightedCells(cells, codes, weights, names)
    if shared:
        data = replace(data, sample=np.zeros_like(codes), names=("all samples",))
        settings = replace(settings, shrinkage=False)
    train = np.ones(len(codes), bool)
    scores: dict[str, NDArray[np.float64]] = {}
    best = np.repeat(np.asarray(settings.candidates)[:1], data.sample.max() + 1)
    if settings.several:
        train = _split(_WeightedCells(cells, codes, weights, names), settings)
        fit, best, scores, prior = _choose(data, train, settings)
    if not settings.several or settings.refit == "full":
        train = np.ones(len(codes), bool)
        prior = _fit_priors(data, sorted(set(best.tolist())), settings)
        fit = fit_mixtures(cells, data.sample, best, settings.em, weight=weights, prior=prior or None, names=data.names)
    mixtures = fit.mixtures
    if shared:
        mixtures = _weigh_by_patient(data.subset(train), codes[train], mixtures, settings.em.device)
        best = np.repeat(best, codes.max() + 1)
        scores = {name: np.repeat(score, codes.max() + 1, axis=0) for name, score in scores.items()}
    sharing = "global" if shared else "sample_specific"
    return SelectedMixtures(mixtures, best, tuple(map(int, settings.candidates)), scores, sharing, fit, prior, train)


def shares_components(x: NDArray[np.floating], sample: NDArray[np.int64], settings: SelectionSettings) -> bool:
    """Whether all patients have one mixture, in which only their weights differ."""
    sharing = settings.component_sharing
    return sharing == "global" or (sharing == "auto" and _have_same_points(x, sample))


def _choose(
    cells: _WeightedCells, train: NDArray[np.bool_], settings: SelectionSettings
) -> tuple[EMResult, NDArray[np.int64], dict[str, NDArray[np.float64]], Mapping[int, Prior]]:
    """Fit all candidates to the training cells: the best fit, number and scores of each patient, and the priors."""
    part, candidates, em = cells.subset(train), settings.candidates, settings.em
    prior = _fit_priors(part, candidates, settings)
    # a candidate that is not chosen may be singular
    strict = em.singularity_handling == "strict"
    lenient = replace(em, singularity_handling="guarded") if strict else em
    data: dict[str, Any] = {"weight": part.weight, "prior": prior or None, "names": part.names}
    fits = fit_mixture_candidates(part.x, part.sample, candidates, lenient, **data)
    scores = _score(fits, part, cells.subset(~train), em.device)
    score = scores[settings.k_selection_metric]
    column = score.argmin(axis=1) if not settings.common_k else np.full(len(score), score.mean(axis=0).argmin())
    best = np.asarray(candidates)[column]
    fit = fit_mixtures(part.x, part.sample, best, em, **data) if strict else _merge(fits, column)
    return fit, best, scores, prior


def _score(
    fits: Sequence[EMResult], train: _WeightedCells, rest: _WeightedCells, device: str
) -> dict[str, NDArray[np.float64]]:
    """(P, C) criteria; the held-out score of a patient without held-out cells is 0."""
    n = np.bincount(train.sample, train.weight)[:, None]
    total = np.stack([fit.log_likelihood for fit in fits], axis=1) * n
    p = np.stack([fit.mixtures.n_parameters() for fit in fits], axis=1)
    scores = {"aic": -2 * total + 2 * p, "bic": -2 * total + p * np.log(np.maximum(n, 1.0))}
    if len(rest.x):
        nll = [
            -mean_log_likelihood(rest.x, fit.mixtures, rest.sample, weight=rest.weight, device=device) for fit in fits
        ]
        scores["heldout_nll"] = np.stack(nll, axis=1)
    return scores


def _merge(fits: Sequence[EMResult], column: NDArray[np.int64]) -> EMResult:
    """For each patient the fit of its column."""
    rows = np.arange(len(column))
    k = max(fits[j].mixtures.means.shape[1] for j in column)
    fits_in = [fit.mixtures.means.shape[1] <= k for fit in fits]
    padded = [fit.mixtures.padded(k) for fit, fits_k in zip(fits, fits_in, strict=True) if fits_k]
    position = np.cumsum(fits_in) - 1
    mixtures = Mixtures.stack(padded).subset(position[column] * len(column) + rows)
    steps = max(fit.history.shape[1] for fit in fits)
    history = np.stack([np.pad(fit.history, ((0, 0), (0, steps - fit.history.shape[1])), "edge") for fit in fits])
    others = {
        name: np.stack([getattr(fit, name) for fit in fits])[column, rows]
        for name in ("log_likelihood", "converged", "n_iter", "n_singular")
    }
    return EMResult(mixtures, history=history[column, rows], **others)


def _fit_priors(cells: _WeightedCells, candidates: Sequence[int], settings: SelectionSettings) -> Mapping[int, Prior]:
    """The pooled mixture for each candidate; empty for maximum likelihood."""
    if settings.nu == 0:
        return {}
    return fit_pooled_priors(cells.x, cells.sample, candidates, settings.em, weight=cells.weight, nu=settings.nu)


def _weigh_by_patient(cells: _WeightedCells, codes: NDArray[np.int64], mixtures: Mixtures, device: str) -> Mixtures:
    """The shared components for each patient, with its mean responsibilities as weights."""
    r = responsibilities(cells.x, mixtures, device=device) * cells.weight[:, None]
    p, k = int(codes.max()) + 1, r.shape[1]
    total = np.stack([np.bincount(codes, r[:, j], minlength=p) for j in range(k)], axis=1)
    return Mixtures(
        total / total.sum(axis=1, keepdims=True), np.repeat(mixtures.means, p, axis=0),
        np.repeat(mixtures.covariances, p, axis=0), mixtures.covariance_type, mixtures.eps,
    )  # fmt: skip


def _have_same_points(x: NDArray[np.floating], codes: NDArray[np.int64]) -> bool:
    """Whether all patients have the same points, as cells replaced by weighted centroids do."""
    size = np.bincount(codes)
    if len(size) < 2 or (size != size[0]).any():
        return False
    points = x[np.argsort(codes, kind="stable")].reshape(len(size), size[0], -1)
    return bool((points == points[:1]).all())


def _split(cells: _WeightedCells, settings: SelectionSettings) -> NDArray[np.bool_]:
    """Which cells to train on: the same fraction of every patient, at least one cell of positive weight."""
    codes, weight, names = cells.sample, cells.weight, cells.names
    hold_out = settings.k_selection_metric == "heldout_nll" and not settings.common_k
    size = np.bincount(codes, weight > 0).astype(np.int64)
    if hold_out and size.min() < 2:
        patient = int(size.argmin())
        raise ValueError(
            f"sample {patient if names is None else names[patient]!r} has {size[patient]} cell of positive weight: "
            "k_selection_metric='heldout_nll' needs two; use 'aic' or 'bic', or give one k_comps."
        )
    number = np.clip(np.round(settings.train_size * size), 1, np.maximum(size - hold_out, 1))
    # cells of weight 0 come last, so that the training cells are drawn among those of positive weight
    random = np.random.default_rng(settings.em.random_state).random(len(codes))
    order = np.lexsort((random, weight <= 0, codes))
    start = np.concatenate([[0], np.cumsum(np.bincount(codes))[:-1]])
    train = np.zeros(len(codes), bool)
    train[order] = np.arange(len(codes)) - start[codes[order]] < number[codes[order]]
    return train
