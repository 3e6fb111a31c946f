"""What a fitted model keeps: the mixtures of its patients, what new ones are shrunk to, and the classifier."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport._arrays import canonical_order, row_codes, sum_codes
from muport.gmm.metric._log_ratios import CellCounts  # noqa: TC001 - the saved state is read by its annotations
from muport.gmm.metric._nuisance import CovariateCode, explained_fraction
from muport.gmm.mixtures._component_number import SelectedMixtures, select_mixtures, shares_components
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._mixtures import Mixtures, responsibilities
from muport.gmm.mixtures._patient_offsets import SharedStates, fit_shared_states
from muport.gmm.mixtures._pooled_prior import Prior  # noqa: TC001 - as above
from muport.gmm.prediction._outcome_predictor import OutcomePredictor  # noqa: TC001 - as above
from muport.gmm.prediction._outcomes import Outcome  # noqa: TC001 - as above
from muport.gmm.prediction._patient_classifier import PatientClassifier  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.mixtures._component_number import SelectionSettings
    from muport.gmm.prediction._cross_validation import Fitter, Transform

__all__ = [
    "Cohort", "GMMState", "cell_codes", "check_confounding", "check_strata", "fit_cohort", "fit_new_patients",
    "label_samples", "labeled_patients", "make_fitter",
]  # fmt: skip


_DETERMINED = 1e-9
#: Fraction of the outcome that covariates explain, corrected for chance, from which a warning is given.
_CONFOUNDED = 0.5


@dataclass(frozen=True, eq=False)
class Cohort:
    """Mixtures of the fitted patients, and how those of new patients are fitted.

    - `mixtures`: Mixtures of the P patients.
    - `best_k`: (P,) number of components of each.
    - `sharing`: ``"sample_specific"`` or ``"global"``.
    - `priors`: Pooled mixtures by their number of components; empty without shrinkage.
    - `log_likelihood`: Mean log-likelihood per cell, in nats, of each fit; one number for a shared mixture.
    - `converged`: Fraction of the fits that converged.
    - `shared_states`: States up to an offset of the patient, without which the mixtures and the priors are fitted; None
      if patients are not shifted.
    """

    mixtures: Mixtures
    best_k: Annotated[NDArray[np.int64], "P", "1.."]
    sharing: str
    priors: dict[str, Prior]
    log_likelihood: Annotated[NDArray[np.float64], "*", "any"]
    converged: Annotated[float, "0..1"]
    shared_states: SharedStates | None = None

    def check_consistency(self) -> None:
        """Raise a ValueError unless each patient has a mixture, and each prior the number of components it is for."""
        if len(self.mixtures) != len(self.best_k):
            raise ValueError(f"there are {len(self.mixtures)} mixtures and {len(self.best_k)} numbers of components.")
        if wrong := [k for k, prior in self.priors.items() if len(prior.weights) != int(k)]:
            raise ValueError(f"the priors {wrong} have another number of components.")


@dataclass(frozen=True, eq=False)
class GMMState:
    """Everything that `save` writes.

    - `cohort`: The mixtures.
    - `samples`: Names of the P patients.
    - `condition`: (P,) codes into `conditions`, -1 for a patient whose condition is not known.
    - `conditions`: Names of the conditions.
    - `classifier`: Learned metrics and classifier, over the patients of known condition; None before `train_gmm`.
    - `types`: Names of the annotated types of cells.
    - `counts`: Cells of each patient, and of each type; None in models of earlier versions.
    - `outcome`: Outcome of each patient, if it is not a class.
    - `regressor`: Learned metrics and regressions, over the patients of known outcome, if it is not a class.
    - `covariates`: Covariates whose effects the predictor removes.
    - `cells`: Code of the cells of each patient, by which changed data are recognized; empty in models of earlier
      versions.
    """

    cohort: Cohort
    samples: Annotated[tuple[str, ...], "P"]
    condition: Annotated[NDArray[np.int64], "P", "-1..<conditions"]
    conditions: tuple[str, ...]
    classifier: PatientClassifier | None = field(default=None)
    types: tuple[str, ...] = ()
    counts: CellCounts | None = None
    outcome: Outcome | None = None
    regressor: OutcomePredictor | None = None
    covariates: tuple[CovariateCode, ...] = ()
    cells: tuple[str, ...] = ()

    @property
    def predictor(self) -> PatientClassifier | OutcomePredictor | None:
        """What predicts the classes, or the outcome, of new patients; None before `train_gmm`."""
        return self.regressor if self.outcome is not None else self.classifier

    def check_consistency(self) -> None:
        """Raise a ValueError unless each patient has a mixture and counts, and each type a column of these."""
        if self.outcome is not None and len(self.outcome) != len(self.samples):
            raise ValueError(f"there are {len(self.outcome)} outcomes of {len(self.samples)} patients.")
        if self.counts is not None and self.counts.types.shape != (len(self.samples), len(self.types)):
            raise ValueError(f"there are counts {self.counts.types.shape} of {len(self.samples)} patients.")
        if len(self.cohort.mixtures) != len(self.samples):
            raise ValueError(f"there are {len(self.cohort.mixtures)} mixtures of {len(self.samples)} patients.")
        if self.cells and len(self.cells) != len(self.samples):
            raise ValueError(f"there are codes of the cells of {len(self.cells)} of {len(self.samples)} patients.")

    def check_cells(self, samples: tuple[str, ...], codes: tuple[str, ...]) -> None:
        """Raise a ValueError unless these are the patients and the cells of the fit.

        - `samples`: Names of the patients of the data.
        - `codes`: Codes of their cells, from :func:`cell_codes`.
        """
        if samples != self.samples:
            different = sorted(set(samples) ^ set(self.samples))
            raise ValueError(
                f"the data of this model do not have the samples of its fit: {different[:3]} are in only one of them. "
                "Load it with the data of the fit, or pass new patients to predict."
            )
        # models of earlier versions have no codes
        pairs = zip(samples, codes, self.cells, strict=False)
        changed = [name for name, code, code_of_fit in pairs if code != code_of_fit]
        if changed:
            raise ValueError(
                f"the cells of {changed[:3]} ({len(changed)} of {len(samples)} samples) are not those of the fit: the "
                "data were subset, or use_rep, sample_key or weight_key have changed. Give the model the data of the "
                "fit, or train it again."
            )


def cell_codes(
    x: NDArray[np.floating], sample: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> tuple[str, ...]:
    """Code of the cells of each patient, whatever their order; arguments as for :func:`fit_cohort`."""
    total = sum_codes(row_codes(x, weight), sample, int(sample.max(initial=-1)) + 1)
    return tuple(f"{code:016x}" for code in total.tolist())


def fit_cohort(
    x: NDArray[np.floating],
    sample: NDArray[np.int64],
    settings: SelectionSettings,
    weight: NDArray[np.float64] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Cohort, SelectedMixtures]:
    """Fit the mixtures of a cohort; arguments as for :func:`select_mixtures`; their order does not matter."""
    x, sample, weight = _sort_cells(x, sample, weight)
    # components that are not shrunk to a prior do not depend on the other patients
    alone = settings.nu == 0 or shares_components(x, sample, settings)
    states = None if alone else fit_shared_states(x, sample, weight, settings.em.random_state)
    offsets = None if states is None else states.offsets(x, sample, weight)
    aligned = x if offsets is None else x - offsets[sample]
    selected = select_mixtures(aligned, sample, settings, weight=weight, names=names)
    priors = {str(k): prior for k, prior in selected.prior.items()}
    fit = selected.fit
    converged = float(fit.converged.mean())
    mixtures = _add_offsets(selected.mixtures, offsets)
    cohort = Cohort(mixtures, selected.best_k, selected.sharing, priors, fit.log_likelihood, converged, states)
    return cohort, selected


def fit_new_patients(
    cohort: Cohort,
    x: NDArray[np.floating],
    sample: NDArray[np.int64],
    settings: SelectionSettings,
    weight: NDArray[np.float64] | None = None,
    names: Sequence[str] | None = None,
) -> Mixtures:
    """Fit mixtures of patients outside the cohort: with the shared components, or shrunk to the cohort's prior.

    Without shared components the number of components is about the median of the cohort's.
    """
    x, sample, weight = _sort_cells(x, sample, weight)
    if cohort.sharing == "global":
        shared = cohort.mixtures.subset(0)
        mean_weights = cohort.mixtures.weights.mean(axis=0, keepdims=True)
        pooled = Mixtures(
            mean_weights / mean_weights.sum(), shared.means, shared.covariances, shared.covariance_type, shared.eps
        )
        r = responsibilities(x, pooled)
        mass = np.zeros((int(sample.max()) + 1, r.shape[1]))
        np.add.at(mass, sample, r if weight is None else r * weight[:, None])
        means, covariances = (np.repeat(array, len(mass), axis=0) for array in (shared.means, shared.covariances))
        weights = mass / mass.sum(axis=1, keepdims=True)
        return Mixtures(weights, means, covariances, shared.covariance_type, shared.eps)
    k = int(np.median(cohort.best_k))
    # there is a prior only for numbers that occur in the cohort, and a median may lie between two of them
    k = int(cohort.best_k[np.abs(cohort.best_k - k).argmin()])
    prior = cohort.priors.get(str(k))
    offsets = None if cohort.shared_states is None else cohort.shared_states.offsets(x, sample, weight)
    aligned = x if offsets is None else x - offsets[sample]
    mixtures = fit_mixtures(aligned, sample, k, settings.em, weight=weight, prior=prior, names=names).mixtures
    return _add_offsets(mixtures, offsets)


def _add_offsets(mixtures: Mixtures, offsets: NDArray[np.float64] | None) -> Mixtures:
    """The mixtures of cells without the offsets (P, d), moved to the cells."""
    if offsets is None:
        return mixtures
    # padded components stay at 0
    means = np.where(mixtures.weights[:, :, None] > 0, mixtures.means + offsets[:, None], mixtures.means)
    return replace(mixtures, means=means, offsets=offsets)


def _sort_cells(
    x: NDArray[np.floating], sample: NDArray[np.int64], weight: NDArray[np.float64] | None
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.float64] | None]:
    """Sort cells by patient and coordinates: starts of EM and the held-out cells are drawn by position."""
    order = canonical_order(x, sample)
    return x[order], sample[order], None if weight is None else weight[order]


def make_fitter(settings: SelectionSettings) -> Fitter:
    """Make the fitter of cross-validation: it fits the cohort of the training patients, and then any patients."""

    def fit(x: NDArray[np.float64], sample: NDArray[np.int64], weight: NDArray[np.float64] | None) -> Transform:
        cohort, _ = fit_cohort(x, sample, settings, weight)

        def transform(
            cells: NDArray[np.float64], codes: NDArray[np.int64], weights: NDArray[np.float64] | None
        ) -> Mixtures:
            # training patients are fitted as if they were new, so that all patients are treated alike
            return fit_new_patients(cohort, cells, codes, settings, weights)

        return transform

    return fit


def labeled_patients(condition: NDArray[np.int64], key: str | None) -> NDArray[np.int64]:
    """Return the patients of known condition, of which there must be at least two conditions.

    Raises ValueError if there are fewer.
    """
    known = np.flatnonzero(condition >= 0)
    if (number := len(np.unique(condition[known]))) < 2:
        raise ValueError(
            f"labels_key={key!r} has {number} conditions of {len(known)} patients: a metric needs patients of at "
            "least two; fit_gmm needs none."
        )
    return known


def check_confounding(target: NDArray[np.float64], columns: NDArray[np.float64], keys: Sequence[str]) -> str | None:
    """Say how far covariates (P, q) determine the outcome, targets (P, T), if it is much; None if it is not.

    Raises ValueError if they determine it, or there are as many columns as samples.
    """
    explained, corrected = explained_fraction(target, columns)
    n, q = columns.shape
    if q >= n - 1:
        raise ValueError(f"covariate_keys={list(keys)} make {q} columns for {n} samples: pass fewer, or add samples.")
    if explained > 1 - _DETERMINED:
        raise ValueError(
            f"covariate_keys={list(keys)} determine the outcome of every sample: their effects are "
            "the same. Leave the covariate out, or add samples in which they differ."
        )
    if corrected <= _CONFOUNDED:
        return None
    return (
        f"covariate_keys={list(keys)} explain {100 * explained:.0f} % of the differences of the outcome between {n} "
        f"samples ({100 * corrected:.0f} % corrected for {q} columns): their effects can hardly be distinguished, and "
        "what both explain is removed."
    )


def check_classes(condition: NDArray[np.int64], names: Sequence[str], what: str) -> None:
    """Check that conditions that are numbers are classes: whole, and on average of two samples or more if over two.

    - `condition`: (P,) condition of each sample, -1 if it is not known.
    - `names`: Names of the conditions, numbers as text.
    - `what`: How messages call the column.

    Raises ValueError if they are a continuous outcome.
    """
    fix = (
        "pass outcome='continuous', bin it, for example with pandas.cut, or convert it with .astype(str) if each "
        "number is a class"
    )
    if broken := [name for name in names if not name.removeprefix("-").isdecimal()]:
        raise ValueError(
            f"{what} holds numbers that are not whole, for example {broken[0]}: a continuous outcome is no condition; "
            f"{fix}."
        )
    known = int((condition >= 0).sum())
    if len(names) > 2 and 2 * len(names) > known:
        raise ValueError(
            f"{what} holds {len(names)} numbers in {known} samples, for example {', '.join(names[:3])}: that is a "
            f"continuous outcome, not conditions; {fix}."
        )


def label_samples(
    sample: NDArray[np.int64],
    label: NDArray[np.int64],
    samples: tuple[str, ...],
    labels: tuple[str, ...],
    key: str,
    what: str = "condition",
) -> NDArray[np.int64]:
    """Return the (P,) label of each sample, from the labels of its cells; -1 if no cell has one.

    - `sample`, `label`: (n,) sample and label of each cell; -1 for a missing label.
    - `samples`, `labels`: Names of samples and labels.
    - `key`, `what`: Name of the column, and what a label is, for messages.

    Raises ValueError if the cells of a sample have two labels; names the sample.
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


def check_strata(stratum: NDArray[np.int64], condition: NDArray[np.int64], key: str | None) -> NDArray[np.int64]:
    """Return the strata (P,) of patients; ValueError if none has two conditions, which could be permuted in it."""
    pairs = np.unique(np.stack([stratum, condition]), axis=1)
    if np.bincount(pairs[0]).max() < 2:
        raise ValueError(
            f"strata_key={key!r}: no stratum has samples of two conditions, so no conditions can be permuted: name a "
            "column that several samples share, or leave it out."
        )
    return stratum
