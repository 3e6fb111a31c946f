"""A cohort as the model keeps it: mixtures of known patients, what new ones are shrunk to, and the classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from muport.gmm.mixtures._component_number import Selected, select_mixtures
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._mixtures import Mixtures, responsibilities
from muport.gmm.mixtures._pooled_prior import Prior  # noqa: TC001
from muport.gmm.prediction._patient_classifier import PatientClassifier  # noqa: TC001 - the saved state is read by its annotations

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Cohort", "GMMState", "cohort_of", "conditions_of", "fitter", "known_conditions", "mixtures_of_new"]

_EM = ("covariance_type", "max_iter", "tol", "n_init", "eps", "singularity_handling", "names", "random_state", "device")


@dataclass(frozen=True, eq=False)
class Cohort:
    """Mixtures of the fitted patients, and how those of new ones are fitted.

    Attributes
    ----------
    mixtures
        Mixtures of the P patients.
    best_k
        (P,) number of components of each.
    sharing
        ``"sample_specific"`` or ``"global"``.
    priors
        Pooled mixtures by their number of components; empty without shrinkage.
    log_likelihood
        Mean log-likelihood of a cell, nats, of each fit; one number for a shared mixture.
    converged
        Share of the fits that converged.
    """

    mixtures: Mixtures
    best_k: NDArray[np.int64]
    sharing: str
    priors: dict[str, Prior]
    log_likelihood: NDArray[np.float64]
    converged: float


@dataclass(frozen=True, eq=False)
class GMMState:
    """Everything that `save` writes.

    Attributes
    ----------
    cohort
        The mixtures.
    samples
        Names of the P patients.
    condition
        (P,) codes into `conditions`, -1 for a patient whose condition is not known.
    conditions
        Names of the conditions.
    classifier
        Learnt metrics and predictor, over the patients of known condition; None before `train_gmm`.
    """

    cohort: Cohort
    samples: tuple[str, ...]
    condition: NDArray[np.int64]
    conditions: tuple[str, ...]
    classifier: PatientClassifier | None = field(default=None)


def cohort_of(
    x: NDArray[Any], sample: NDArray[np.int64], settings: dict[str, Any], weight: NDArray[np.float64] | None = None
) -> tuple[Cohort, Selected]:
    """Fit the mixtures of a cohort; `settings` are those of :func:`select_mixtures`."""
    found = select_mixtures(x, sample, weight=weight, **settings)
    priors = {str(k): prior for k, prior in found.prior.items()}
    fit = found.fit
    return (
        Cohort(
            found.mixtures, found.best_k, found.sharing, priors, fit.log_likelihood, float(fit.converged.mean())
        ),
        found,
    )  # fmt: skip


def mixtures_of_new(
    cohort: Cohort,
    x: NDArray[Any],
    sample: NDArray[np.int64],
    settings: dict[str, Any],
    weight: NDArray[np.float64] | None = None,
) -> Mixtures:
    """Mixtures of patients that the cohort has not seen, by what it taught: the shared one, or the prior and its size.

    The number of components is the median of the cohort's.
    """
    if cohort.sharing == "global":
        shared = cohort.mixtures.subset(0)
        whole = np.zeros_like(sample)
        share = cohort.mixtures.weights.mean(axis=0, keepdims=True)
        pooled = Mixtures(share / share.sum(), shared.means, shared.covariances, shared.covariance_type, shared.eps)
        r = responsibilities(x, pooled, whole)
        mass = np.zeros((int(sample.max()) + 1, r.shape[1]))
        np.add.at(mass, sample, r if weight is None else r * weight[:, None])
        weights = mass / mass.sum(axis=1, keepdims=True)
        parts = [np.repeat(part, len(weights), axis=0) for part in (shared.means, shared.covariances)]
        return Mixtures(weights, parts[0], parts[1], shared.covariance_type, shared.eps)
    k = int(np.median(cohort.best_k))
    # a median between two numbers of the cohort need not be one of them
    k = int(cohort.best_k[np.abs(cohort.best_k - k).argmin()])
    chosen = {name: settings[name] for name in _EM if name in settings}
    return fit_mixtures(x, sample, k, weight=weight, prior=cohort.priors.get(str(k)), **chosen).mixtures


def fitter(
    settings: dict[str, Any], weighted: bool = False
) -> Callable[[NDArray[np.float64], NDArray[np.int64]], Callable[[NDArray[np.float64], NDArray[np.int64]], Mixtures]]:
    """What cross-validation fits in each fold: the cohort of the training patients, and new ones by it.

    If `weighted`, the last column of the cells is their weight.
    """

    def parted(cells: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        return (cells[:, :-1], cells[:, -1]) if weighted else (cells, None)

    def fit(
        x: NDArray[np.float64], sample: NDArray[np.int64]
    ) -> Callable[[NDArray[np.float64], NDArray[np.int64]], Mixtures]:
        values, weight = parted(x)
        cohort, _ = cohort_of(values, sample, settings, weight)

        def transform(cells: NDArray[np.float64], code: NDArray[np.int64]) -> Mixtures:
            # training patients, too, are taken as if they were new: all are treated alike
            new, mass = parted(cells)
            return mixtures_of_new(cohort, new, code, settings, mass)

        return transform

    return fit


def known_conditions(condition: NDArray[np.int64], key: str | None) -> NDArray[np.int64]:
    """Patients of known condition, of which there must be two or more.

    Raises
    ------
    ValueError
        If there are not.
    """
    known = np.flatnonzero(condition >= 0)
    if (number := len(np.unique(condition[known]))) < 2:
        raise ValueError(
            f"labels_key={key!r} tells {number} conditions of {len(known)} patients: a metric needs patients of at "
            "least two; fit_gmm does without."
        )
    return known


def conditions_of(
    sample: NDArray[np.int64],
    label: NDArray[np.int64],
    samples: tuple[str, ...],
    labels: tuple[str, ...],
    key: str,
    what: str = "condition",
) -> NDArray[np.int64]:
    """(P,) condition, or other `what`, of each sample, -1 where no cell has one; `key` names it in messages.

    Raises
    ------
    ValueError
        If the cells of a sample have two; names it.
    """
    table = np.zeros((len(samples), len(labels)), dtype=np.int64)
    known = label >= 0
    np.add.at(table, (sample[known], label[known]), 1)
    several = np.flatnonzero((table > 0).sum(axis=1) > 1)
    if len(several):
        first = several[0]
        names = [labels[i] for i in np.flatnonzero(table[first])]
        raise ValueError(
            f"{key}: {len(several)} samples have cells of more than one {what}, for example {samples[first]!r} "
            f"{names}: give each sample one {what}, or make a sample of each part."
        )
    if not len(labels):
        return np.full(len(samples), -1, dtype=np.int64)
    return np.where(table.any(axis=1), table.argmax(axis=1), -1)
