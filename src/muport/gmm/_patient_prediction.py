"""What a fitted cohort says of new patients, and what its word is worth."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_seed
from muport.gmm._fitted_state import conditions_of, fitter, known_conditions, mixtures_of_new
from muport.gmm.prediction._cross_validation import CrossValidation, Tuning, cross_validate, tune
from muport.gmm.prediction._patient_classifier import predict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows, Setup
    from muport.gmm._fitted_state import GMMState
    from muport.gmm.mixtures._mixtures import Mixtures

    type Data = mudata.MuData | anndata.AnnData
    type Patients = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]

__all__ = ["METRIC_SETTINGS", "PredictionMixin", "check_metric", "sample_of", "weight_of"]

#: Settings of the metric that a search may vary.
METRIC_SETTINGS = ("bures", "method", "mix", "n_comps", "n_states", "offset", "ridge", "tau", "training")
_PREFIX = "fitter__"
_AXES = (1, 2, 5)  # tried by default
_METHODS = ("fisher", "nca", "triplet")


class PredictionMixin:
    """Prediction, cross-validation and the search for settings."""

    if TYPE_CHECKING:
        # the model's: at run time they must not stand before it
        settings_: dict[str, Any]
        device: Any
        _setup: Setup

        def _fitted(self) -> GMMState: ...

        def _rows(
            self,
            data: Data | None = None,
            *,
            require_batch: bool = True,
            require_time: bool = True,
            require_sample: bool = True,
        ) -> Rows: ...

    @abstractmethod
    def _labels(self, key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]: ...

    @abstractmethod
    def _own_rows(self) -> Rows: ...

    def predict(self, mdata_new: Data | None = None, soft: bool = False) -> pd.Series | pd.DataFrame:
        """Predict the condition of each patient.

        Parameters
        ----------
        mdata_new
            Cells of new patients, with the representation and sample column of the set-up. By default the patients of
            the fit: those whose condition was known have taught the answer.
        soft
            Return probabilities.

        Returns
        -------
        A categorical Series over the patients, or, if `soft`, a DataFrame of probabilities (patients by conditions)
        whose rows sum to 1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`fit_gmm`.
        KeyError, TypeError, ValueError
            If no metric was trained, the width differs from the model's, or cells have no sample.
        """
        state = self._fitted()
        if state.classifier is None:
            raise ValueError("there is no metric to predict with: set up a labels_key, and call train_gmm.")
        if not isinstance(soft, bool):
            raise TypeError(f"soft={type(soft).__name__} must be True or False: pass cells as mdata_new=.")
        mixtures, names = self._mixtures(mdata_new)
        p = predict(state.classifier, mixtures)
        if soft:
            return pd.DataFrame(p, index=names, columns=list(state.conditions))
        chosen = pd.Categorical.from_codes(p.argmax(axis=1), categories=list(state.conditions))
        return pd.Series(chosen, index=names, name=self._setup.labels_key)

    def cross_validate(
        self, n_folds: int | None = None, group_key: str | None = None, n_permutations: int = 0, random_state: int = 0
    ) -> CrossValidation:
        """Predict every patient of known condition from the others, with everything refitted without it.

        Parameters
        ----------
        n_folds
            Folds with the conditions spread evenly; each patient alone by default.
        group_key
            Column with the person of each cell, where one has several samples: they are held out together.
        n_permutations
            Repeats with permuted conditions, whose scores must be those of chance.
        random_state
            Seed of permutations and of the bootstrap.

        Returns
        -------
        Probabilities, scores with 95 % intervals, and the confusion matrix, of the patients of known condition
        (``samples``) and of the ``conditions``, in order.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If a condition would be left without a patient, or samples have no person.
        """
        check_seed(random_state)
        x, sample, condition, group = self._labelled(group_key)
        settings, metric = self._fold_settings()
        found = cross_validate(
            x, sample, condition, group=group, fitter=fitter(settings, self._weighted), n_folds=n_folds,
            n_permutations=n_permutations, random_state=random_state, **metric,
        )  # fmt: skip
        return self._named(found)

    def tune(
        self,
        grid: Mapping[str, Sequence[Any]] | None = None,
        n_folds: int | None = 5,
        n_inner: int = 5,
        group_key: str | None = None,
        random_state: int = 0,
    ) -> Tuning:
        """Choose settings by cross-validation, and say what the choice is worth by a second one around it.

        Parameters
        ----------
        grid
            Name -> values: settings of :meth:`train_gmm` (``"n_comps"``, ``"ridge"`` ...; those of the polishing as
            dicts under ``"training"``), and of :meth:`fit_gmm` with the prefix ``"fitter__"`` (``"fitter__k_comps"``).
            Other settings are those of the last calls of these two. By default ``{"n_comps": (1, 2, 5)}``.
        n_folds, n_inner
            Outer and inner folds; the choice of an outer fold never sees its patients.
        group_key, random_state
            As for :meth:`cross_validate`.

        Returns
        -------
        The best setting, a table of all, and the cross-validation to expect for new patients.

        Raises
        ------
        KeyError, ValueError
            If the grid is empty or has an unknown name, or as for :meth:`cross_validate`.
        """
        check_seed(random_state)
        grid = {"n_comps": _AXES} if grid is None else grid
        x, sample, condition, group = self._labelled(group_key)
        settings, metric = self._fold_settings()
        _check_grid(grid, settings)
        kept = {name: [value] for name, value in metric.items() if name not in grid}
        found = tune(
            x, sample, condition, {**kept, **grid}, group=group,
            make_fitter=lambda **how: fitter({**settings, **how}, self._weighted), n_folds=n_folds, n_inner=n_inner,
            random_state=random_state,
        )  # fmt: skip
        best, *chosen = ({name: one[name] for name in grid} for one in (found.best, *found.chosen))
        table = found.table.drop(columns=list(kept))
        return replace(found, best=best, chosen=chosen, table=table, outer=self._named(found.outer))

    def _named(self, found: CrossValidation) -> CrossValidation:
        """With the names of its patients and conditions."""
        state = self._fitted()
        return replace(found, samples=tuple(state.samples[i] for i in self._known()), conditions=state.conditions)

    @property
    def _weighted(self) -> bool:
        return self._setup.weight_key is not None

    def _known(self) -> NDArray[np.int64]:
        """Samples of known condition."""
        return known_conditions(self._fitted().condition, self._setup.labels_key)

    def _labelled(self, group_key: str | None) -> Patients:
        """Cells, with their weights as the last column if there are any, and codes, conditions and groups."""
        rows, known = self._own_rows(), self._known()
        sample, weight = sample_of(rows), weight_of(rows)
        chosen = np.isin(sample, known)
        group = None if group_key is None else self._group(group_key, rows)[known]
        x = rows.x.astype(np.float64) if weight is None else np.column_stack([rows.x, weight])
        return x[chosen], np.searchsorted(known, sample[chosen]), self._fitted().condition[known], group

    def _fold_settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the mixtures and of the metric in a fold."""
        told = self.settings_.get("train_gmm", {})
        metric = {name: told[name] for name in METRIC_SETTINGS if name in told}
        return {**self.settings_["fit_gmm"], "refit": "full", "device": str(self.device)}, metric

    def _group(self, key: str, rows: Rows) -> NDArray[np.int64]:
        """(P,) person of each sample."""
        person, people = self._labels(key)
        assert rows.sample is not None
        table = conditions_of(rows.sample, person, rows.samples, people, f"group_key={key!r}", "person")
        if (table < 0).any():
            raise ValueError(f"group_key={key!r}: {int((table < 0).sum())} samples have no person: give them one.")
        return table

    def _mixtures(self, data: Data | None) -> tuple[Mixtures, pd.Index]:
        """Mixtures of the patients of the fit, or of new ones, and their names."""
        state, name = self._fitted(), self._setup.sample_key
        if data is None:
            return state.cohort.mixtures, pd.Index(state.samples, name=name)
        rows = self._rows(data)
        rows.check_width(state.cohort.mixtures.means.shape[2])
        settings = {**self.settings_["fit_gmm"], "device": str(self.device), "names": rows.samples}
        new = mixtures_of_new(state.cohort, rows.x, sample_of(rows), settings, weight_of(rows))
        return new, pd.Index(rows.samples, name=name)


def sample_of(rows: Rows) -> NDArray[np.int64]:
    """Sample of each row."""
    assert rows.sample is not None
    return rows.sample[rows.cell]


def weight_of(rows: Rows) -> NDArray[np.float64] | None:
    """Weight of each row, if there are any."""
    return None if rows.weight is None else rows.weight[rows.cell]


def _check_grid(grid: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> None:
    if not grid:
        raise ValueError("grid is empty: give at least one setting with its values.")
    names = [
        *METRIC_SETTINGS,
        *(_PREFIX + name for name in settings if name not in ("device", "random_state", "refit")),
    ]
    for name, values in grid.items():
        if name not in names:
            raise ValueError(f"grid has the setting {name!r}, which is unknown: use some of {names}.")
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise TypeError(f"grid[{name!r}]={values!r} must be a list of values.")


def check_metric(n_comps: int, method: str, n_states: int | None = None) -> None:
    """Refuse settings of the metric that cannot be, before anything is fitted."""
    for name, value in (("n_comps", n_comps), ("n_states", 1 if n_states is None else n_states)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number, at least 1.")
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is unknown: use one of {', '.join(map(repr, _METHODS))}.")
