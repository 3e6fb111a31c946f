"""The GMM model: a cohort in, distances between patients and predictions for new ones out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from muport._checks import check_seed
from muport.data import MuDataModel, Setup, read_rows, register
from muport.gmm._fitted_state import GMMState, cohort_of, conditions_of, known_conditions
from muport.gmm._inference import CohortMixin
from muport.gmm._patient_prediction import PredictionMixin, check_metric, sample_of, weight_of
from muport.gmm.metric._ground_metric import BURES, MIXES, RIDGES
from muport.gmm.mixtures._mixtures import responsibilities
from muport.gmm.prediction._patient_classifier import fit_classifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows

    type Data = mudata.MuData | anndata.AnnData

__all__ = ["GMM"]


class GMM(CohortMixin, PredictionMixin, MuDataModel):
    """Patients as Gaussian mixtures, with a ground metric under which optimal transport tells their conditions apart.

    Each patient's cells become a mixture, shrunk to that of the whole cohort. The plan between two mixtures is found
    once; distances are then linear in W'W, and the axes W on which patients of different conditions differ most are
    generalised eigenvectors. What moves (state, with or without its spread) and how much of it there is (composition)
    stay apart; they, and the distance without a learnt metric, are weighed by how well each tells training patients
    that it has not seen.

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
        use_rep: Mapping[str, str] | str = {"rna": "X_pca"},
        sample_key: str = "sample",
        labels_key: str | None = None,
        weight_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a MuData.

        Parameters
        ----------
        mdata
            Object to register; it is checked whole before anything is written to it.
        use_rep
            Key of ``mdata.obsm``, such as the latent space of an integration, or modality -> ``obsm`` key. The
            representations of several modalities are put side by side; every cell must then be in all of them.
        sample_key
            Column with the sample (patient) of each cell.
        labels_key
            Column with the condition, the same for all cells of a sample; missing where it is not known.
        weight_key
            Column with the weight of each cell.
        kwargs
            For scvi-tools, which passes ``source_registry`` when it transfers a set-up.

        Raises
        ------
        KeyError
            If a modality, ``obsm`` key or column is missing; says which exist.
        TypeError, ValueError
            If a representation is not finite, cells repeat, have no sample, or a sample has two conditions.
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
        **kwargs: Any,
    ) -> None:
        """Register an AnnData: the same as a MuData of one modality.

        Parameters
        ----------
        adata
            Object to register.
        use_rep
            ``obsm`` key of the representation.
        sample_key, labels_key, weight_key
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
        rows = cls._read(data, setup_method_args["setup_args"], required="source_registry" not in kwargs)
        _condition(rows, str(setup_method_args["setup_args"]["labels_key"]))
        register(cls, data, setup_method_args, **kwargs)

    @classmethod
    def _read(cls, data: Data, setup_args: dict[str, Any], required: bool) -> Rows:
        return read_rows(data, Setup.from_args({**cls._setup_defaults, **setup_args}), require_labels=required)

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
            ``"sample_specific"``: a mixture for each patient. ``"global"``: one for all, of which each patient has its
            own shares. ``"auto"``: global if the patients' cells stand at the same points.
        k_comps
            Components, or candidates; 1 to 10 by default.
        k_selection_metric
            How the number is chosen among candidates.
        refit
            ``"full"`` fits the chosen number to all cells; ``"none"`` keeps the fit of the share it was chosen on.
        covariance_type
            ``"full"`` or ``"diag"``.
        train_size
            Share of each patient's cells to fit the candidates on.
        max_iter, tol
            Iterations, and the gain of the mean log-likelihood below which they end.
        n_init
            Starts.
        eps
            Added to the diagonal of every covariance.
        singularity_handling
            ``"guarded"`` adds a small jitter to a nearly singular covariance, ``"robust"`` more, with a warning,
            ``"strict"`` raises an error that names the patient and the component.
        gmm_key
            Key of ``uns`` under which the mixtures are written, and of ``obs`` and ``obsm`` for the components and
            responsibilities of the cells (``<key>_comp``, ``<key>_resp``); nothing is written by default.
        verbose
            Show progress.
        shrinkage
            Cells that the cohort's mixture counts in each patient's own; True for twice the dimensions, at least 20,
            False for the plain EM.
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
        given = locals()
        names = (
            "component_sharing", "k_comps", "k_selection_metric", "refit", "covariance_type", "train_size", "max_iter",
            "tol", "n_init", "eps", "singularity_handling", "shrinkage", "common_k", "random_state",
        )  # fmt: skip
        if gmm_key is not None and (not isinstance(gmm_key, str) or not gmm_key):
            raise TypeError(f"gmm_key={gmm_key!r} must be a key to write to, or None to write nothing.")
        check_seed(random_state)
        device = self._device(accelerator, devices)
        settings = {name: given[name] for name in names}
        rows = self._rows()
        sample = sample_of(rows)
        with _busy("mixtures", verbose):
            cohort, found = cohort_of(
                rows.x, sample, {**settings, "names": rows.samples, "device": str(device)}, weight_of(rows)
            )
        condition = _condition(rows, str(self._setup.labels_key))
        self.state_ = GMMState(cohort, rows.samples, condition, rows.labels)
        self.settings_ = {"fit_gmm": settings}
        self.metrics_ = {
            "log_likelihood": float(cohort.log_likelihood.mean()),
            "converged": cohort.converged,
        }
        columns = {name: scores.mean(axis=0) for name, scores in found.scores.items()}
        index = pd.Index(found.candidates, name="k")
        self.history_ = {name: pd.DataFrame({name: values}, index=index) for name, values in columns.items()}
        self.is_trained_ = True
        self.to_device(device)
        if gmm_key is not None:
            self._write(gmm_key, rows)

    def train_gmm(
        self,
        n_comps: int = 5,
        method: Literal["fisher", "nca", "triplet"] = "fisher",
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
    ) -> None:
        """Learn the ground metric from the patients of known condition.

        Of `ridge`, `tau`, `offset`, `mix` and `bures` several values may be given: each combination is a view of the
        cohort, and views are weighed by how well they tell patients that they have not seen.

        Parameters
        ----------
        n_comps
            Axes of the learnt subspace.
        method
            ``"fisher"``: the closed form. ``"nca"``: polished by neighbourhood components. ``"triplet"``: ggml-ot's
            objective. Polishing takes a thousand times as long as the closed form: every view and fold is polished.
        ridge
            Weight of the cells' covariance within components; 1 is as much as patients of one condition differ on an
            ordinary axis.
        tau
            1 moves all mass; less lets mass without counterpart stay, so that composition is not read as movement.
        offset
            Whether to take from each patient the median shift of its components.
        mix
            Weight of the state distance against the composition's.
        bures
            Whether changes of covariance count beside those of means.
        alpha, reg, reg_type, lr, max_iter, entropic_reg, mi_reg, stop_thr
            Of the polishing: margin of the triplets in units of the mean distance, weight and kind of the norm of W,
            rate and number of steps, regularisation of the plans, weight of the components' mutual information, and the
            norm of the slope at which it stops.
        n_states
            States that compositions are counted in; by default the median number of components.
        group_key
            Column with the person of each cell, where one has several samples: they are held out together.
        random_state
            Seed.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`fit_gmm`.
        ValueError
            If fewer than two conditions are known, or an option is out of range.
        """
        state: GMMState = self._fitted()
        check_seed(random_state)
        check_metric(n_comps, method, n_states)
        training = {
            "alpha": alpha, "reg": reg, "reg_type": reg_type, "lr": lr, "max_iter": max_iter,
            "entropic_reg": entropic_reg, "mi_reg": mi_reg, "stop_thr": stop_thr,
        }  # fmt: skip
        settings: dict[str, Any] = {
            "n_comps": min(n_comps, state.cohort.mixtures.means.shape[2]),
            "method": method, "ridge": ridge, "tau": tau, "offset": offset, "mix": mix, "bures": bures,
            "n_states": n_states, "training": training if method != "fisher" else None, "random_state": random_state,
        }  # fmt: skip
        known = self._known()
        group = None if group_key is None else self._group(group_key, self._own_rows())[known]
        found = fit_classifier(state.cohort.mixtures.subset(known), state.condition[known], group=group, **settings)
        self.state_ = replace(state, classifier=found)
        self.settings_ = {**self.settings_, "train_gmm": {**settings, "group_key": group_key}}
        weights = {f"weight_{name}": value for name, value in found.family_weights().items()}
        self.metrics_ = {**self.metrics_, "loss": found.metric.loss, **weights}

    def train(
        self,
        k_comps: int | Sequence[int] | None = None,
        n_comps: int = 5,
        method: Literal["fisher", "nca", "triplet"] = "fisher",
        component_sharing: Literal["sample_specific", "global", "auto"] = "sample_specific",
        k_selection_metric: Literal["aic", "bic", "heldout_nll"] = "heldout_nll",
        covariance_type: Literal["full", "diag"] = "full",
        shrinkage: float | bool = True,
        group_key: str | None = None,
        accelerator: str = "auto",
        devices: int | str = "auto",
        random_state: int = 0,
        progress: bool = True,
    ) -> None:
        """Fit the mixtures, and, where conditions are known, the metric: :meth:`fit_gmm`, then :meth:`train_gmm`.

        One number of components is chosen for all patients, by cells held out, and the mixtures are refitted to all
        cells with it.

        Parameters
        ----------
        k_comps
            Components, or candidates; 1 to 10 by default.
        n_comps
            Axes of the learnt subspace.
        method, group_key
            As for :meth:`train_gmm`.
        component_sharing, k_selection_metric, covariance_type, shrinkage, accelerator, devices
            As for :meth:`fit_gmm`.
        random_state
            Seed; the same seed gives the same result, bit by bit.
        progress
            Show progress.

        Raises
        ------
        ValueError
            As these two.
        """
        if self._setup.labels_key is not None:
            # what would fail after the mixtures fails before them
            rows = self._rows()
            known_conditions(_condition(rows, self._setup.labels_key), self._setup.labels_key)
            check_metric(n_comps, method)
            if group_key is not None:
                self._group(group_key, rows)
        self.fit_gmm(
            component_sharing, k_comps, k_selection_metric, "full", covariance_type, verbose=progress,
            shrinkage=shrinkage, common_k=True, accelerator=accelerator, devices=devices, random_state=random_state,
        )  # fmt: skip
        if self._setup.labels_key is not None:
            with _busy("metric", progress):
                self.train_gmm(n_comps, method, group_key=group_key, random_state=random_state)

    def get_latent_representation(self, mdata: Data | None = None) -> NDArray[np.float32]:
        """Return cells in the learnt subspace.

        Parameters
        ----------
        mdata
            Cells; those the model was set up with by default.

        Returns
        -------
        (n_obs, n_comps) float32, ``x W'`` with the metric of least held-out loss; without one, the representation
        itself, (n_obs, d).

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        state: GMMState = self._fitted()
        rows = self._rows(mdata, require_sample=False)
        rows.check_width(state.cohort.mixtures.means.shape[2])
        if state.classifier is None:
            return np.array(rows.to_cells(rows.x))
        return rows.to_cells(state.classifier.metric.latent(rows.x))

    def get_responsibilities(self) -> NDArray[np.float32]:
        """Return the probability of each component of its patient, for each cell of the fit.

        Returns
        -------
        (n_obs, K) float32; rows sum to 1, and components that a patient does not have are 0.
        """
        state: GMMState = self._fitted()
        rows = self._own_rows()
        return rows.to_cells(responsibilities(rows.x, state.cohort.mixtures, sample_of(rows)))

    def _cells(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64] | None]:
        rows = self._own_rows()
        return rows.x, sample_of(rows), weight_of(rows)

    def _labels(self, key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Read another column: codes of the cells, -1 where missing, and names."""
        rows = self._read(self.adata, {**self.registry_["setup_args"], "labels_key": key}, required=True)
        return rows.label, rows.labels

    def _own_rows(self) -> Rows:
        """Cells of the fit: a model that was loaded may have been given others."""
        rows, state = self._rows(), self._fitted()
        if rows.samples != state.samples:
            other = sorted(set(rows.samples) ^ set(state.samples))
            raise ValueError(
                f"the data of this model have not the samples of its fit: {other[:3]} are in one of them only. Load it "
                "with the data of the fit, or pass new patients to predict."
            )
        return rows

    def _write(self, key: str, rows: Rows) -> None:
        """Write the mixtures, and the components and responsibilities of the cells, into the data."""
        state: GMMState = self._fitted()
        r = rows.to_cells(responsibilities(rows.x, state.cohort.mixtures, sample_of(rows)))
        self.adata.obsm[f"{key}_resp"] = r
        self.adata.obs[f"{key}_comp"] = pd.Categorical(r.argmax(axis=1).astype(str))
        mixtures = state.cohort.mixtures
        self.adata.uns[key] = {
            "mu": mixtures.means, "var": mixtures.covariances, "pi": mixtures.weights,
            "covariance_type": mixtures.covariance_type, "n_components": state.cohort.best_k,
            "component_sharing": state.cohort.sharing, "samples": list(state.samples),
        }  # fmt: skip


def _condition(rows: Rows, key: str) -> NDArray[np.int64]:
    if rows.sample is None:
        return np.zeros(0, dtype=np.int64)
    return conditions_of(rows.sample, rows.label, rows.samples, rows.labels, f"labels_key={key!r}")


def _busy(what: str, show: bool) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, disable=not show, transient=True)
    bar.add_task(what, total=None)
    return bar
