"""The methods that predict conditions: of new patients, and of held-out ones."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from muport._checks import check_flags, check_integers, check_seed
from muport.gmm._cohort_structure import CohortStructure
from muport.gmm._fitted_state import check_confounding, fit_new_patients, labeled_patients, make_fitter
from muport.gmm._inference import PACKAGE, row_samples, row_types, row_weights
from muport.gmm._outcome_columns import read_outcome
from muport.gmm.metric._log_ratios import CellCounts
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.mixtures._component_number import SelectionSettings
from muport.gmm.prediction._cross_validation import CrossValidation, cross_validate
from muport.gmm.prediction._labeled_cells import LabeledCells
from muport.gmm.prediction._outcome_predictor import predict_outcome
from muport.gmm.prediction._outcome_validation import validate_outcome
from muport.gmm.prediction._outcomes import OUTCOMES
from muport.gmm.prediction._patient_classifier import predict_conditions
from muport.gmm.prediction._tuning import check_grid, tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.gmm._fitted_state import GMMState
    from muport.gmm._inference import Data
    from muport.gmm.mixtures._mixtures import Mixtures
    from muport.gmm.prediction._outcome_predictor import OutcomePrediction, OutcomePredictor
    from muport.gmm.prediction._outcome_validation import OutcomeValidation
    from muport.gmm.prediction._outcomes import Outcome, OutcomeKind
    from muport.gmm.prediction._patient_classifier import PatientClassifier
    from muport.gmm.prediction._tuning import Tuning

__all__ = ["ConditionPrediction", "show_progress"]

#: Options of the metric that cross-validation takes from the last training, and that `tune` may vary.
_METRIC_OPTIONS = ("bures", "method", "mix", "n_comps", "n_states", "offset", "ridge", "tau", "training")
_DEFAULT_GRID = {"n_comps": (1, 2, 5)}


class ConditionPrediction(CohortStructure):
    """Prediction of conditions, cross-validation, and the choice of options."""

    def predict(self, mdata: Data | None = None, soft: bool = False) -> pd.Series | pd.DataFrame:
        """Predict the condition, or the outcome, of each patient.

        Parameters
        ----------
        mdata
            Cells of new patients, with the representation, the samples and, if they were used, the cell types and
            covariates. By default the patients of the fit; predictions for those of known condition are optimistic, see
            :meth:`cross_validate`.
        soft
            Return probabilities, or how certain the prediction is.

        Returns
        -------
        Over the patients, by the outcome of the set-up:

        - classes and ordered levels: a categorical Series; if `soft`, a DataFrame of probabilities (patients by
          conditions) whose rows sum to 1;
        - a continuous outcome: a Series of numbers; if `soft`, a DataFrame with the columns ``"value"``, ``"lower"``
          and ``"upper"``, the last two ends of an interval of 95 % for the number of a new patient;
        - survival: a Series of log-hazards, against the mean of the patients of the fit; if `soft`, a DataFrame of
          survival curves: the probability that the event has not happened, with a column for each time of an event.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`fit_gmm`.
        KeyError, TypeError, ValueError
            If no metric was trained, the number of coordinates differs from the model's, or cells have no sample.
        """
        state: GMMState = self._fitted()
        if state.predictor is None:
            raise ValueError("there is no metric to predict with: set up a labels_key, and call train_gmm.")
        if not isinstance(soft, bool):
            raise TypeError(f"soft={type(soft).__name__} must be True or False.")
        mixtures, names, counts, columns = self._mixtures(mdata)
        if state.regressor is not None:
            prediction = predict_outcome(state.regressor, mixtures, counts=counts, columns=columns)
            return _outcome_table(prediction, state.regressor, names, soft, self._setup.labels_key)
        p = predict_conditions(cast("PatientClassifier", state.classifier), mixtures, counts=counts, columns=columns)
        return _class_table(p, state.conditions, names, soft, self._setup.labels_key)

    def cross_validate(
        self,
        n_folds: int | None = None,
        group_key: str | None = None,
        n_permutations: int = 0,
        random_state: int = 0,
        strata_key: str | None = None,
        progress: bool = True,
    ) -> CrossValidation | OutcomeValidation:
        """Predict every patient of known condition from the others, with mixtures and metric fitted without it.

        Parameters
        ----------
        n_folds
            Number of folds, with the conditions distributed evenly. By default that of the patients of the rarest
            condition, at least 5: a fold then has one or more of each condition, and ``auroc`` compares these. If it is
            the number of patients, they are left out one by one, and only ``pooled_auroc``, which is biased, is known.
            Of other outcomes than classes: 5 folds, each over the range of the outcome.
        group_key
            Column with the person of each cell, if a person has several samples; these are held out together.
        n_permutations
            Number of repeats with permuted conditions, whose scores are those of chance; the mixtures, which do not
            depend on the conditions, are fitted once.
        random_state
            Seed of permutations and of the bootstrap.
        strata_key
            Column with the stratum of each cell, such as the center or the pair: permutations keep the conditions of
            each stratum.
        progress
            Show the elapsed time, and of classes the fold that is fitted.

        Returns
        -------
        Probabilities, scores with 95 % intervals and permutation p-values, and the confusion matrix of the patients of
        known condition (:class:`muport.gmm.CrossValidation`); or, of other outcomes than classes, predictions and
        scores (:class:`muport.gmm.OutcomeValidation`).

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If there are more folds than patients, a condition has no patient outside a fold, outcomes outside a fold
            do not differ, or samples have no person or stratum.
        """
        check_seed(random_state)
        check_flags(progress=progress)
        check_integers(0, n_permutations=n_permutations)
        cells, fit_options, metric_options = self._validation_inputs(group_key)
        state, known = self._fitted(), self._labeled_patients()
        strata = self._read_groups(strata_key, self._fitted_rows(), "strata_key", "stratum")
        options: dict[str, Any] = {
            "n_folds": n_folds, "n_permutations": n_permutations, "random_state": random_state,
            "strata": None if strata is None else strata[known],
        }  # fmt: skip
        fitter, settings = self._make_fitter(fit_options), MetricSettings.from_options(metric_options)
        with show_progress("folds", progress) as report:
            if state.outcome is None:
                return self._with_names(cross_validate(cells, fitter, settings, **options, report=report))
            result = validate_outcome(cells, state.outcome.subset(known), fitter, settings, **options)
        return replace(result, samples=tuple(state.samples[i] for i in known))

    def tune(
        self,
        grid: Mapping[str, Sequence[Any]] | None = None,
        n_folds: int | None = 5,
        n_inner: int = 5,
        group_key: str | None = None,
        random_state: int = 0,
        progress: bool = True,
    ) -> Tuning:
        """Choose options by cross-validation, and score the choice by a second cross-validation around it.

        Parameters
        ----------
        grid
            Option -> list of values. Options of :meth:`train_gmm` have their names (``"n_comps"``, ``"ridge"`` ...);
            those of the gradient training are given as dicts under ``"training"``. Options of :meth:`fit_gmm` have the
            prefix ``"fitter__"`` (``"fitter__k_comps"``). All other options are those of the last calls of these two
            methods. By default ``{"n_comps": (1, 2, 5)}``.
        n_folds, n_inner
            Numbers of outer and inner folds; the choice of an outer fold does not use its patients. If there are fewer
            than `n_inner` patients outside a fold, they are held out one by one.
        group_key, random_state, progress
            As for :meth:`cross_validate`.

        Returns
        -------
        The best options, a table of all, and the cross-validation to expect for new patients.

        Raises
        ------
        KeyError, ValueError
            If the grid is empty or has an unknown name, the outcome is not a class, or as for :meth:`cross_validate`.
        """
        check_seed(random_state)
        check_flags(progress=progress)
        if self._fitted().outcome is not None:
            raise ValueError("tune compares options for classes: compare cross_validate() for other outcomes.")
        grid = _DEFAULT_GRID if grid is None else grid
        cells, fit_options, metric_options = self._validation_inputs(group_key)
        check_grid(grid, _METRIC_OPTIONS, [name for name in fit_options if name not in ("random_state", "refit")])
        with show_progress("folds", progress) as report:
            tuning = tune(
                cells, grid,
                make_fitter=lambda **options: self._make_fitter({**fit_options, **options}),
                make_settings=lambda **options: MetricSettings.from_options({**metric_options, **options}),
                n_folds=n_folds, n_inner=n_inner, random_state=random_state, report=report,
            )  # fmt: skip
        return replace(tuning, outer=self._with_names(tuning.outer))

    def _validation_inputs(self, group_key: str | None) -> tuple[LabeledCells, dict[str, Any], dict[str, Any]]:
        """Cells of known condition, and the options of the mixtures and of the metric."""
        rows, known = self._fitted_rows(), self._labeled_patients()
        group = self._read_groups(group_key, rows)
        state: GMMState = self._fitted()
        sample, weight = row_samples(rows), row_weights(rows)
        codes, names = self._read_types(None, state.types)
        types = row_types(codes, rows)
        inside = np.isin(sample, known)
        label = state.condition[known] if state.outcome is None else state.outcome.subset(known).slices()
        cells = LabeledCells.check(
            rows.x[inside], np.searchsorted(known, sample[inside]), label,
            None if group is None else group[known], None if weight is None else weight[inside],
            cell_type=None if types is None else types[inside], n_types=len(names),
            columns=self._fit_covariates(self.settings_.get("train_gmm", {}).get("covariate_keys", ()), known)[1],
        )  # fmt: skip
        trained = self.settings_.get("train_gmm", {})
        metric_options = {name: trained[name] for name in _METRIC_OPTIONS if name in trained}
        return cells, {**self.settings_["fit_gmm"], "refit": "full"}, metric_options

    def _make_fitter(self, options: Mapping[str, Any]) -> Any:
        return make_fitter(SelectionSettings.from_options(options, str(self.device)))

    def _with_names(self, result: CrossValidation) -> CrossValidation:
        """The cross-validation with the names of its patients and conditions."""
        state: GMMState = self._fitted()
        samples = tuple(state.samples[i] for i in self._labeled_patients())
        return replace(result, samples=samples, conditions=state.conditions)

    def _labeled_patients(self) -> NDArray[np.int64]:
        """Patients of known condition or outcome."""
        state: GMMState = self._fitted()
        if state.outcome is None:
            return labeled_patients(state.condition, self._setup.labels_key)
        known = state.outcome.known()
        state.outcome.subset(known).check_variation(f"labels_key={self._setup.labels_key!r}")
        return known

    def _warn_of_confounding(self, known: NDArray[np.int64], columns: NDArray[np.float64], keys: Sequence[str]) -> None:
        """Warn, or raise a ValueError, if covariates determine much of the outcome of the patients."""
        state: GMMState = self._fitted()
        if state.outcome is None:
            target = np.eye(len(state.conditions))[state.condition[known]]
        else:
            target = state.outcome.subset(known).target()[:, None]
        if (message := check_confounding(target, columns, keys)) is not None:
            warnings.warn(message, UserWarning, skip_file_prefixes=(PACKAGE,))

    @property
    def outcome(self) -> str | None:
        """Type of the outcome in the column `labels_key`: ``"class"`` or another; None without this column."""
        # models of earlier versions were set up without the argument
        if self._setup.labels_key is None:
            return None
        kind: str = self.registry_["setup_args"].get("outcome", "auto")
        return "class" if kind == "auto" else kind

    def _read_outcome(self, rows: Rows, condition: NDArray[np.int64]) -> Outcome | None:
        """The outcome of each sample; None if it is a class, or there is none."""
        arguments = self.registry_["setup_args"]
        if self.outcome not in OUTCOMES:
            return None
        kind = cast("OutcomeKind", self.outcome)
        return read_outcome(self.adata, rows, condition, kind, arguments["labels_key"], arguments["event_key"])

    def _mixtures(self, data: Data | None) -> tuple[Mixtures, pd.Index, CellCounts | None, NDArray[np.float64] | None]:
        """Mixtures of the patients of the fit, or of new patients, their names, cells, and covariates."""
        state: GMMState = self._fitted()
        name = self._setup.sample_key
        if data is None:
            columns = self._covariate_columns(self._fitted_rows(), self.adata) if state.covariates else None
            return state.cohort.mixtures, pd.Index(state.samples, name=name), state.counts, columns
        rows = self._rows(data)
        rows.check_width(state.cohort.mixtures.means.shape[2])
        codes, _ = self._read_types(data, state.types)
        settings = SelectionSettings.from_options(self.settings_["fit_gmm"], str(self.device))
        sample, weight = row_samples(rows), row_weights(rows)
        mixtures = fit_new_patients(state.cohort, rows.x, sample, settings, weight, names=rows.samples)
        counts = CellCounts.count(sample, len(rows.samples), row_types(codes, rows), len(state.types), weight)
        return mixtures, pd.Index(rows.samples, name=name), counts, self._covariate_columns(rows, data)


@contextmanager
def show_progress(what: str, show: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with the elapsed time; yields a function that changes its text."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, disable=not show, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda text: bar.update(task, description=text)


def _class_table(
    p: NDArray[np.float64], names: Sequence[str], index: pd.Index, soft: bool, key: str | None, ordered: bool = False
) -> pd.Series | pd.DataFrame:
    """Probabilities (Q, C) of classes or levels as a table, or the most probable ones."""
    if soft:
        return pd.DataFrame(p, index=index, columns=list(names))
    predicted = pd.Categorical.from_codes(p.argmax(axis=1), categories=list(names), ordered=ordered)
    return pd.Series(predicted, index=index, name=key)


def _outcome_table(
    prediction: OutcomePrediction, predictor: OutcomePredictor, index: pd.Index, soft: bool, key: str | None
) -> pd.Series | pd.DataFrame:
    """Predictions of an outcome that is not a class, as a Series, or as a table if `soft`."""
    if predictor.outcome.kind == "ordinal":
        return _class_table(prediction.probabilities, predictor.outcome.levels, index, soft, key, ordered=True)
    if not soft:
        return pd.Series(prediction.value, index=index, name=key)
    if predictor.outcome.kind == "survival":
        curves = np.exp(-np.exp(prediction.value)[:, None] * predictor.hazard)
        return pd.DataFrame(curves, index=index, columns=pd.Index(predictor.times, name=key))
    lower, upper = prediction.interval()
    return pd.DataFrame({"value": prediction.value, "lower": lower, "upper": upper}, index=index)
