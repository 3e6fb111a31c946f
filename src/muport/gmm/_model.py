"""The GMM model: the mixtures and the metric of a cohort are fitted, and conditions of new patients predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from muport._checks import check_seed
from muport.data import expand_use_rep, register
from muport.gmm._condition_prediction import ConditionPrediction, show_progress
from muport.gmm._fitted_state import GMMState, cell_codes, fit_cohort, labeled_patients
from muport.gmm._inference import read_cell_types, row_samples, row_types, row_weights, sample_conditions
from muport.gmm._outcome_columns import find_kind
from muport.gmm.metric._log_ratios import CellCounts
from muport.gmm.metric._metric_settings import BURES, MIXES, RIDGES, MetricSettings
from muport.gmm.mixtures._component_number import SelectionSettings
from muport.gmm.mixtures._mixtures import responsibilities
from muport.gmm.prediction._outcome_predictor import fit_outcome
from muport.gmm.prediction._patient_classifier import fit_classifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata

    from muport.data import Rows
    from muport.gmm._inference import Data
    from muport.gmm.prediction._outcome_predictor import OutcomePredictor
    from muport.gmm.prediction._patient_classifier import PatientClassifier

__all__ = ["GMM"]


class GMM(ConditionPrediction):
    """Patients as Gaussian mixtures, compared by optimal transport under a learned metric.

    The cells of each patient become a Gaussian mixture, shrunk to the mixture of the whole cohort. Components of two
    patients are matched by a transport plan that is computed once; distances are then linear in W'W, and the axes W
    on which patients of different conditions differ most are generalized eigenvectors. There are several distances:
    of states (with or without their covariances), of composition, and between mixtures without a learned metric. The
    prediction for a new patient weights them by how well each predicts held-out training patients.

    Parameters
    ----------
    mdata
        MuData or AnnData set up with :meth:`setup_mudata` or :meth:`setup_anndata`.
    registry
        Registry of data, in place of `mdata`.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_cohort(n_patients=8, n_cells=60, n_dims=5, random_state=0)
    >>> muport.GMM.setup_anndata(adata, sample_key="sample", labels_key="condition")
    >>> model = muport.GMM(adata)
    >>> model.train(k_comps=3, n_comps=2, progress=False)
    >>> model.get_sample_distances().shape
    (8, 8)

    References
    ----------
    ggml-ot (its names and defaults are kept in :meth:`fit_gmm`); Delon and Desolneux (2020), A Wasserstein-type
    distance in the space of Gaussian mixture models, SIAM J. Imaging Sciences 13.
    """

    _state_class: ClassVar[type] = GMMState
    _setup_defaults: ClassVar[dict[str, Any]] = {"batch_key": None, "concatenate": True}
    _required_columns: ClassVar[dict[str, str]] = {"sample_key": "it gives the sample (patient) of each cell"}

    def __init__(self, mdata: Data | None = None, registry: dict[str, Any] | None = None) -> None:
        super().__init__(mdata, registry)
        self._model_summary_string = "GMM model"
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_mudata(
        cls,
        mdata: mudata.MuData,
        use_rep: Mapping[str, str] | str = "X_pca",
        sample_key: str = "sample",
        labels_key: str | None = None,
        weight_key: str | None = None,
        cell_type_key: str | None = None,
        outcome: Literal["auto", "class", "ordinal", "continuous", "survival"] = "auto",
        event_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a MuData.

        Parameters
        ----------
        mdata
            Object to register; everything is checked before anything is written to it.
        use_rep
            Key of ``mdata.obsm``, such as the latent space of an integration, or modality -> ``obsm`` key, or one key:
            all modalities that have it take part, and a log line names those that do not. The representations of
            several modalities are concatenated; every cell must then be in all of them, and names that are equal by
            chance are refused.
        sample_key
            Column with the sample (patient) of each cell.
        labels_key
            Column with the condition or outcome, the same for all cells of a sample; missing values if it is not known.
        weight_key
            Column with the weight of each cell.
        cell_type_key
            Column with the annotated type of each cell, at least two; missing values if it is not known. The shares of
            the types are then a view of the cohort beside those of the mixtures, and new patients need the column.
        outcome
            What `labels_key` holds. ``"class"``: conditions without an order. ``"ordinal"``: ordered levels, as an
            ordered categorical or as numbers. ``"continuous"``: numbers. ``"survival"``: times, with `event_key`.
            ``"auto"``: survival with an `event_key`; ordinal if it is an ordered categorical of three levels or more;
            continuous if it holds numbers that are not whole, or more numbers than two and than half of the samples;
            else class. What is taken is logged, and is ``model.outcome``.
        event_key
            Column that says of each sample whether the event happened (1) at the time in `labels_key`, or the patient
            was last seen without it (0).
        kwargs
            For scvi-tools, which passes ``source_registry`` when a set-up is transferred.

        Raises
        ------
        KeyError
            If a modality, ``obsm`` key or column is missing; the message lists those that exist.
        TypeError, ValueError
            If a representation is not finite, cell names repeat, cells have no sample, a sample has two conditions, or
            `labels_key` does not hold what `outcome` says.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._register(mdata, setup_method_args, **kwargs)

    @classmethod
    def setup_anndata(
        cls,
        adata: anndata.AnnData,
        use_rep: str = "X_pca",
        sample_key: str = "sample",
        labels_key: str | None = None,
        weight_key: str | None = None,
        cell_type_key: str | None = None,
        outcome: Literal["auto", "class", "ordinal", "continuous", "survival"] = "auto",
        event_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData, as a MuData of one modality.

        Parameters
        ----------
        adata
            Object to register.
        use_rep
            ``obsm`` key of the representation.
        sample_key, labels_key, weight_key, cell_type_key, outcome, event_key
            Columns of ``obs``, as in :meth:`setup_mudata`.
        kwargs
            For scvi-tools, as in :meth:`setup_mudata`.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`setup_mudata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._register(adata, setup_method_args, **kwargs)

    @classmethod
    def _register(cls, data: Data, setup_method_args: dict[str, Any], **kwargs: Any) -> None:
        arguments = setup_method_args["setup_args"]
        if "source_registry" not in kwargs:
            arguments = expand_use_rep(data, arguments)
            setup_method_args = {**setup_method_args, "setup_args": arguments}
        rows = cls._read(data, arguments, required="source_registry" not in kwargs)
        types = arguments.get("cell_type_key")
        if types is not None and not isinstance(types, str):
            raise TypeError(f"cell_type_key={types!r} must be the name of a column or None.")
        if types is not None and "source_registry" not in kwargs:
            read_cell_types(data, types)
        # refuses samples with two conditions before anything is written
        key = arguments["labels_key"]
        condition = sample_conditions(rows, str(key))
        if "source_registry" not in kwargs:
            outcome, event = arguments["outcome"], arguments["event_key"]
            if key is None and (event is not None or outcome != "auto"):
                raise ValueError(f"outcome={outcome!r}, event_key={event!r} need labels_key, a column of outcomes.")
            if key is not None:
                arguments["outcome"] = find_kind(data, rows, condition, outcome, key, event)
        register(cls, data, setup_method_args, **kwargs)

    def fit_gmm(
        self,
        component_sharing: Literal["sample_specific", "global", "auto"] = "sample_specific",
        k_comps: int | Sequence[int] | None = None,
        k_selection_metric: Literal["aic", "bic", "heldout_nll"] = "aic",
        refit: Literal["none", "full"] = "none",
        covariance_type: Literal["full", "diag"] = "full",
        train_size: float = 0.5,
        max_iter: int = 100,
        tol: float = 1e-3,
        n_init: int = 1,
        eps: float = 1e-4,
        singularity_handling: Literal["guarded", "robust", "strict"] = "guarded",
        gmm_key: str | None = None,
        verbose: bool = True,
        *,
        shrinkage: float | bool = True,
        common_k: bool = False,
        accelerator: str = "auto",
        devices: int | str = "auto",
        random_state: int = 0,
    ) -> None:
        """Fit the mixture of each patient.

        Parameters
        ----------
        component_sharing
            ``"sample_specific"``: one mixture per patient. ``"global"``: one mixture for all patients, in which each
            patient has its own weights. ``"auto"``: global if all patients have the same points.
        k_comps
            Number of components, or candidates; 1 to 10 by default.
        k_selection_metric
            Criterion for the choice among candidates.
        refit
            ``"full"`` fits the chosen number to all cells; ``"none"`` keeps the fit to the training cells of the
            choice.
        covariance_type
            ``"full"`` or ``"diag"``.
        train_size
            Fraction of each patient's cells that the candidates are fitted on.
        max_iter, tol
            Maximum number of iterations, and the change of the mean log-likelihood per cell, in nats, below which the
            fit of a patient ends.
        n_init
            Number of starts; the fit of highest likelihood is kept.
        eps
            Added to the diagonal of every covariance.
        singularity_handling
            ``"guarded"`` adds a small value to the diagonal of a nearly singular covariance, ``"robust"`` a larger one,
            with a warning; ``"strict"`` raises an error that names the patient and the component.
        gmm_key
            Key of ``uns`` under which the mixtures are written, and prefix of the keys of ``obs`` and ``obsm`` for the
            components and responsibilities of the cells (``<key>_comp``, ``<key>_resp``); nothing is written by
            default.
        verbose
            Show progress.
        shrinkage
            Number of cells that the cohort's mixture counts as in each patient's own. True: twice the number of
            dimensions, at least 20; a shift of all cells of a patient is estimated before. False: EM without shrinkage.
        common_k
            Choose one number of components for all patients, that of the best mean score.
        accelerator, devices
            As in Lightning.
        random_state
            Seed.

        Raises
        ------
        ValueError
            If an option is out of range, or a component is singular under ``"strict"``.
        """
        options = {
            "component_sharing": component_sharing, "k_comps": k_comps, "k_selection_metric": k_selection_metric,
            "refit": refit, "covariance_type": covariance_type, "train_size": train_size, "max_iter": max_iter,
            "tol": tol, "n_init": n_init, "eps": eps, "singularity_handling": singularity_handling,
            "shrinkage": shrinkage, "common_k": common_k, "random_state": random_state,
        }  # fmt: skip
        if gmm_key is not None and (not isinstance(gmm_key, str) or not gmm_key):
            raise TypeError(f"gmm_key={gmm_key!r} must be a key to write to, or None to write nothing.")
        check_seed(random_state)
        device = self._device(accelerator, devices)
        settings = SelectionSettings.from_options(options, str(device))
        rows = self._rows()
        sample, weight = row_samples(rows), row_weights(rows)
        with show_progress("mixtures", verbose):
            cohort, selected = fit_cohort(rows.x, sample, settings, weight, names=rows.samples)
        condition = sample_conditions(rows, str(self._setup.labels_key))
        codes, types = self._read_types(None)
        counts = CellCounts.count(sample, len(rows.samples), row_types(codes, rows), len(types), weight)
        outcome, conditions = self._read_outcome(rows, condition), rows.labels
        if outcome is not None:
            ordered = outcome.kind == "ordinal"
            condition = np.where(ordered & (condition >= 0), np.nan_to_num(outcome.values), -1).astype(np.int64)
            conditions = outcome.levels
        self.state_ = GMMState(
            cohort, rows.samples, condition, conditions, types=types, counts=counts, outcome=outcome,
            cells=cell_codes(rows.x, sample, weight),
        )  # fmt: skip
        self.settings_ = {"fit_gmm": options}
        self.metrics_ = {"log_likelihood": float(cohort.log_likelihood.mean()), "converged": cohort.converged}
        scores = {name: values.mean(axis=0) for name, values in selected.scores.items()}
        index = pd.Index(selected.candidates, name="k")
        self.history_ = {name: pd.DataFrame({name: values}, index=index) for name, values in scores.items()}
        self.is_trained_ = True
        self.to_device(device)
        if gmm_key is not None:
            self._write(gmm_key, rows)

    def train_gmm(
        self,
        n_comps: int = 5,
        method: Literal["fisher", "triplet"] = "fisher",
        ridge: float | Sequence[float] = RIDGES,
        tau: float | Sequence[float] = 1.0,
        offset: bool | Sequence[bool] = (False, True),
        mix: float | Sequence[float] = MIXES,
        bures: bool | Sequence[bool] = BURES,
        alpha: float = 1.0,
        reg: float = 0.001,
        reg_type: Literal["fro", "nuc", 1] = "fro",
        lr: float = 0.1,
        max_iter: int = 30,
        entropic_reg: float = 0.0,
        mi_reg: float = 0.0,
        stop_thr: float = 1e-6,
        n_states: int | None = None,
        group_key: str | None = None,
        random_state: int = 0,
        covariate_keys: Sequence[str] = (),
    ) -> None:
        """Learn the ground metric from the patients of known condition.

        Several values may be passed for `ridge`, `tau`, `offset`, `mix` and `bures`. Each combination gives one
        distance between patients, and the distances are weighted by how well they predict held-out patients.

        Parameters
        ----------
        n_comps
            Number of axes of the learned subspace.
        method
            ``"fisher"``: the closed form. ``"triplet"``: the objective of ggml-ot, for comparison with it; its gradient
            training takes about a thousand times as long, since it is repeated for every combination and fold.
        ridge
            Weight of the cells' covariance within components; 1 is the difference of patients of one condition on an
            ordinary axis.
        tau
            1 moves all mass; less leaves mass without a counterpart unmatched, so that a difference in composition
            does not appear as a shift of a state.
        offset
            Whether to subtract from each patient the median shift of its components.
        mix
            Weight of the state distance; the rest is the weight of the composition distance.
        bures
            Whether changes of covariances count, in addition to those of means.
        alpha, reg, reg_type, lr, max_iter, entropic_reg, mi_reg, stop_thr
            Options of the gradient training: margin of the triplets in units of the mean squared distance; weight and
            type of the norm of W; learning rate and maximum number of steps; entropic regularization of the plans;
            weight of the mutual information between axes; norm of the gradient at which training stops.
        n_states
            Number of states of the compositions; by default the median number of components.
        group_key
            Column with the person of each cell, if a person has several samples; these are held out together.
        random_state
            Seed.
        covariate_keys
            Columns with nuisance covariates, the same for all cells of a sample: numbers, such as the age, or
            categories, such as the batch. Their linear effects are removed from all distances by a regression on the
            training patients, also in each fold of :meth:`cross_validate`; new patients need the columns.

        Warns
        -----
        UserWarning
            If covariates explain more than half of the outcome, corrected for chance: the numbers are given.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`fit_gmm`.
        KeyError
            If there is no such column.
        ValueError
            If fewer than two conditions are known, an option is out of range, or covariates determine the outcome.
        """
        state: GMMState = self._fitted()
        check_seed(random_state)
        training = {
            "alpha": alpha, "reg": reg, "reg_type": reg_type, "lr": lr, "max_iter": max_iter,
            "entropic_reg": entropic_reg, "mi_reg": mi_reg, "stop_thr": stop_thr,
        }  # fmt: skip
        options: dict[str, Any] = {
            "n_comps": n_comps, "method": method, "ridge": ridge, "tau": tau, "offset": offset, "mix": mix,
            "bures": bures, "n_states": n_states, "training": training if method != "fisher" else None,
            "random_state": random_state,
        }  # fmt: skip
        settings = MetricSettings.from_options(options)
        # a metric has at most as many axes as the representation has coordinates
        options["n_comps"] = min(n_comps, state.cohort.mixtures.means.shape[2])
        known = self._labeled_patients()
        group = None if group_key is None else self._read_groups(group_key, self._fitted_rows())
        mixtures = state.cohort.mixtures.subset(known)
        others: dict[str, Any] = {
            "group": None if group is None else group[known],
            "counts": None if state.counts is None else state.counts.subset(known),
        }
        codes, others["columns"] = self._fit_covariates(covariate_keys, known)
        if codes:
            self._warn_of_confounding(known, others["columns"], covariate_keys)
        state = replace(state, covariates=codes)
        predictor: PatientClassifier | OutcomePredictor
        if state.outcome is None:
            predictor = fit_classifier(mixtures, state.condition[known], settings, **others)
            self.state_ = replace(state, classifier=predictor)
        else:
            predictor = fit_outcome(mixtures, state.outcome.subset(known), settings, **others)
            self.state_ = replace(state, regressor=predictor)
        self.settings_ = {
            **self.settings_,
            "train_gmm": {**options, "group_key": group_key, "covariate_keys": list(covariate_keys)},
        }
        weights = {f"weight_{name}": value for name, value in predictor.family_weights().items()}
        self.metrics_ = {**self.metrics_, "loss": predictor.metric.loss, **weights}

    def train(
        self,
        k_comps: int | Sequence[int] | None = None,
        n_comps: int = 5,
        method: Literal["fisher", "triplet"] = "fisher",
        component_sharing: Literal["sample_specific", "global", "auto"] = "sample_specific",
        k_selection_metric: Literal["aic", "bic", "heldout_nll"] = "heldout_nll",
        covariance_type: Literal["full", "diag"] = "full",
        shrinkage: float | bool = True,
        group_key: str | None = None,
        accelerator: str = "auto",
        devices: int | str = "auto",
        random_state: int = 0,
        progress: bool = True,
        covariate_keys: Sequence[str] = (),
    ) -> None:
        """Fit the mixtures, and, where conditions are known, the metric: :meth:`fit_gmm`, then :meth:`train_gmm`.

        One number of components is chosen for all patients by the likelihood of held-out cells, and the mixtures are
        fitted again to all cells. ``metrics_`` then holds ``log_likelihood`` (mean per cell, in nats), ``converged``
        (fraction of the fits that converged) and, with a metric, ``loss`` (of held-out patients, in nats) and
        ``weight_state``, ``weight_spread``, ``weight_composition``, ``weight_mixture`` (of the distances),
        ``weight_components`` and ``weight_types`` (of the log-ratios of the composition).

        Parameters
        ----------
        k_comps
            Number of components, or candidates; 1 to 10 by default.
        n_comps
            Number of axes of the learned subspace.
        method, group_key
            As for :meth:`train_gmm`.
        component_sharing, k_selection_metric, covariance_type, shrinkage, accelerator, devices
            As for :meth:`fit_gmm`.
        random_state
            Seed; the same seed gives exactly the same result.
        progress
            Show progress.
        covariate_keys
            As for :meth:`train_gmm`.

        Raises
        ------
        KeyError, ValueError
            As these two methods.
        """
        if self._setup.labels_key is not None:
            # checks of the metric first, since the mixtures take long
            rows = self._rows()
            condition = sample_conditions(rows, self._setup.labels_key)
            if (outcome := self._read_outcome(rows, condition)) is None:
                labeled_patients(condition, self._setup.labels_key)
            else:
                outcome.subset(outcome.known()).check_variation(f"labels_key={self._setup.labels_key!r}")
            MetricSettings(n_comps=n_comps, method=method)
            self._read_groups(group_key, rows)
        self.fit_gmm(
            component_sharing, k_comps, k_selection_metric, "full", covariance_type, verbose=progress,
            shrinkage=shrinkage, common_k=True, accelerator=accelerator, devices=devices, random_state=random_state,
        )  # fmt: skip
        if self._setup.labels_key is not None:
            with show_progress("metric", progress):
                self.train_gmm(
                    n_comps, method, group_key=group_key, random_state=random_state, covariate_keys=covariate_keys
                )

    def _write(self, key: str, rows: Rows) -> None:
        """Write the mixtures, and the components and responsibilities of the cells, into the data."""
        state: GMMState = self._fitted()
        mixtures = state.cohort.mixtures
        r = rows.to_cells(responsibilities(rows.x, mixtures, row_samples(rows)))
        self.adata.obsm[f"{key}_resp"] = r
        self.adata.obs[f"{key}_comp"] = pd.Categorical(r.argmax(axis=1).astype(str))
        self.adata.uns[key] = {
            "mu": mixtures.means, "var": mixtures.covariances, "pi": mixtures.weights,
            "covariance_type": mixtures.covariance_type, "n_components": state.cohort.best_k,
            "component_sharing": state.cohort.sharing, "samples": list(state.samples),
        }  # fmt: skip
