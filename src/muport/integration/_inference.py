"""The methods of a fitted integration: coordinates of its own cells or new ones, labels, weights, imputed values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import pandas as pd

from muport._checks import check_integers, check_numbers
from muport._parallel import single_threaded
from muport._tables import cell_positions, take_cells
from muport.data import MuDataModel, select_modalities
from muport.integration._cell_maps import assign_maps, embed_without_covariates, find_new_maps
from muport.integration._corrected_expression import (
    ModalityCells,
    Way,
    correct_values,
    hold_counts,
    locate_cells,
    select_features,
)
from muport.integration._feature_values import check_finite, compute_imputation_weights, fill_in, read_values
from muport.integration._fitted_cells import code_cells
from muport.integration._fitted_state import transform_cells
from muport.integration._hyperparameters import FitOptions
from muport.integration._working_space import IntegratedRows, make_network_views
from muport.integration.labels._label_transfer import predict_labels
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._joint_space import JointSpace, split_modalities
from muport.integration.vae._trained_network import refine

if TYPE_CHECKING:
    from collections.abc import Iterable

    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows, Setup
    from muport.integration._fitted_state import IntegrationState, LabelModel
    from muport.integration._hyperparameters import Hyperparameters
    from muport.integration.labels._label_transfer import Representations

__all__ = [
    "IntegratedRows", "IntegrationInference", "check_prediction", "choose_labels", "find_batch_of_cell",
    "get_representations",
]  # fmt: skip

_N_SOURCES = 15  # measured cells whose mean an imputed value is


class IntegrationInference(MuDataModel):
    """Methods of a fitted integration."""

    _hyperparameters: Hyperparameters

    def get_latent_representation(
        self, mdata: mudata.MuData | anndata.AnnData | None = None, indices: Any = None, modality: str | None = None
    ) -> NDArray[np.float32]:
        """Return the integrated coordinates of cells.

        Parameters
        ----------
        mdata
            Cells to map, as for :meth:`map_query`; by default the cells of the model.
        indices
            Cells to return, by position, name or mask; by default all. All cells of `mdata` are mapped.
        modality
            Return the corrected representation of this modality instead. In a joint space, it has the coordinates of
            the modality's own representation, and for a cell without the modality it is predicted from the others. In
            other spaces, it is the integrated position of the cell's measurement in this modality alone.

        Returns
        -------
        (n_obs, d) float32, row i for ``mdata.obs_names[i]``, or for the i-th of `indices`. If modalities share a
        representation, it has the same coordinates, and a cell measured in several modalities is at the mean of its
        rows. In a joint space, the corrected representations of all modalities stand side by side, each weighted by its
        weight in the cell; the shared coordinates follow if ``shared_rep`` was given and some cells lack a modality.
        With ``refine="vae"``, the latent coordinates of the network.

        Raises
        ------
        KeyError
            If the model does not have the modality.
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        state: IntegrationState = self._fitted()
        if modality is not None:
            self._check_modality(modality)
        integrated = self._integrate(mdata)
        latent = self._latent(integrated) if modality is None else _select_modality(integrated, state, modality)
        return take_cells(latent, indices, integrated.rows.obs_names)

    def _latent(self, integrated: IntegratedRows) -> NDArray[np.float32]:
        """Return the coordinates (n_cells, d) of integrated cells; with a network, its latent coordinates."""
        state: IntegrationState = self._fitted()
        if state.network is None:
            return integrated.cells
        by_modality = state.network.second_statistics is not None
        first, second = make_network_views(integrated.y, integrated.embedded, state.space, by_modality)
        batch = find_batch_of_cell(integrated.embedded.rows, state.batches)
        return refine(state.network, first, batch, second=second)

    def map_query(self, mdata: mudata.MuData | anndata.AnnData) -> NDArray[np.float32]:
        """Map new cells into the integrated space, without a new fit. The model and `mdata` are not changed.

        Cells of a fitted batch are moved by the map of the batch. As in training, the result for a cell does not depend
        on the other cells of `mdata`. So it is for a new combination of known levels of several batch variables, whose
        effects add up. Another new batch is first transported to the fitted centers, which needs enough of its cells to
        be reliable. In scvi-tools, ``load_query_data`` and a short training do this; here nothing is trained.
        :meth:`write` stores the coordinates, labels and a neighbor graph in the query.

        Parameters
        ----------
        mdata
            New cells with the ``obsm`` keys, the batch columns and the covariates of the set-up. They need not be set
            up. Labels are not needed, and one of the modalities is enough.

        Returns
        -------
        (n_obs, d) float32 in the order of ``mdata.obs_names``, as :meth:`get_latent_representation` returns it.

        Raises
        ------
        KeyError, ValueError
            As :meth:`setup_mudata`; and if the cells have another number of coordinates than the model.
        """
        return self.get_latent_representation(mdata)

    def get_modality_weights(self, mdata: mudata.MuData | anndata.AnnData | None = None) -> pd.DataFrame:
        """Return the weight of each modality in each cell.

        In a joint space, a modality has a larger weight if the neighbors of the cell, in the other modalities and with
        half the weight in this one, predict its measurement in this modality better. In other spaces, all modalities in
        which a cell was measured have equal weights.

        Parameters
        ----------
        mdata
            Cells, as for :meth:`map_query`; by default the cells of the model.

        Returns
        -------
        DataFrame of cells by modalities; rows sum to 1, and a modality in which the cell was not measured has weight 0.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        return self._modality_weights(self._integrate(mdata))

    def _modality_weights(self, integrated: IntegratedRows) -> pd.DataFrame:
        """Return the weights of the modalities, cells by modalities."""
        rows, names, space = integrated.rows, list(self._modalities), self.state_.space
        weights: NDArray[np.floating] | None = integrated.embedded.modality_weights
        if weights is not None and isinstance(space, JointSpace):
            return pd.DataFrame(weights, index=rows.obs_names, columns=list(space.modalities))[names]
        weights = np.zeros((rows.n_cells, len(names)))
        column = np.array([names.index(name) for name in rows.modalities])
        weights[rows.cell, column[rows.modality]] = 1
        return pd.DataFrame(weights / weights.sum(axis=1, keepdims=True), index=rows.obs_names, columns=names)

    def impute(
        self,
        modality: str,
        layer: str | None = None,
        mdata: mudata.MuData | anndata.AnnData | None = None,
        n_neighbors: int = _N_SOURCES,
    ) -> anndata.AnnData:
        """Impute a modality in the cells that were not measured in it.

        A cell without the modality gets the mean of the nearest measured cells of the model in the integrated space,
        weighted by a kernel (barycentric projection). A cell with the modality keeps its values.

        Parameters
        ----------
        modality
            Modality to impute.
        layer
            Layer with the values; None for ``X``.
        mdata
            Cells to impute, as for :meth:`map_query`; by default the cells of the model. Imputed values are means of
            the model's cells; measured values are taken by the names of the features, in any order.
        n_neighbors
            Number of measured cells that are averaged, at least 1.

        Returns
        -------
        AnnData of all cells by the features of the modality: values in ``X`` (sparse if the modality's are), its own
        representation in ``obsm``, and in ``obs["measured"]`` whether a cell was measured in the modality.

        Raises
        ------
        KeyError
            If the model does not have the modality, or its data do not have the layer.
        ValueError
            If the model was loaded without data, or its cells are no longer those of the fit; if `n_neighbors` is not a
            positive integer, values are not finite, or the modality of `mdata` has other features than that of the
            model, or repeats one.
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        self._fitted()
        self._check_modality(modality)
        check_integers(n_neighbors=n_neighbors)
        source = self._get_modality(self._own_data("load it with the data that have the modality"), modality)
        values = read_values(source, layer, modality, source.var_names)
        own = source if mdata is None else self._get_modality(mdata, modality)
        # the values of new cells are checked before the cells are mapped
        own_values = values if own is source else read_values(own, layer, modality, source.var_names)
        for held in (values, own_values):
            check_finite(held, modality, layer)
        reference = self._integrate_fitted_cells()
        query = reference if mdata is None else self._integrate(mdata, sharpening=0.0)
        weights, selection = compute_imputation_weights(reference, query, modality, n_neighbors)
        imputed = anndata.AnnData(
            fill_in(weights, selection, values, own_values),
            obs=pd.DataFrame({"measured": np.diff(selection.indptr) > 0}, index=query.rows.obs_names),
            var=source.var.copy(),
        )
        keys = self._setup.use_rep
        key = keys if isinstance(keys, str) else (keys or {}).get(modality)
        if key is not None and (representation := reference.rows.own.get(modality)) is not None:
            imputed.obsm[key] = fill_in(weights, selection, representation, query.rows.own.get(modality))
        return imputed

    def get_corrected_expression(
        self,
        modality: str,
        layer: str | None = None,
        features: Iterable[str] | None = None,
        mdata: mudata.MuData | anndata.AnnData | None = None,
    ) -> anndata.AnnData:
        """Return the values of the features of a modality without the effects of the batches.

        Values are corrected on their own scale. **Counts** (whole numbers of at least 0) are divided by factors, one
        for each batch and feature, which vary over the integrated space: zeros stay zeros, nothing is negative, a
        cell keeps about its depth, and sparse counts stay sparse. From all **other values** (log-normalized
        expression, centered log-ratios) differences are subtracted; the result is dense. If the model has one
        modality, such values first follow the integrated coordinates: values of which ``use_rep`` is the PCA change
        by the loadings times the move of the cell. What is left of the differences between batches near the same
        place of the integrated space is removed then. See the methods page.

        All cells keep their own noise, and values are not smoothed. Cells of a batch that the integration does not
        move keep their values bit by bit, and the others are corrected to them. Sharpening and the separation of
        types are not applied.

        Do not test corrected values between conditions: the cells of a sample are no replicates. Add up raw counts
        with :func:`muport.pp.to_pseudobulk` instead, and test the sums with the batch as a covariate. Corrected values
        are for figures, for scores of gene sets, and for methods that have no argument for batches. Of several batch
        variables, those with the strength 0 keep their effects; the others must have equal ones. Effects of continuous
        covariates on the values are not removed.

        Memory: two copies of the returned values, made dense unless they are sparse counts, and 200 MB.

        Parameters
        ----------
        modality
            Modality whose features are corrected: genes, peaks or proteins. The modality of an AnnData is ``"adata"``.
        layer
            Layer with the values; None for ``X``.
        features
            Names of the features to return, in this order; None for all. The values do not depend on this choice.
        mdata
            Cells to correct, as for :meth:`map_query`; by default the cells of the model. Effects are estimated from
            the cells of the fit, and those of an unknown batch from its own cells. Features are taken by name. Values
            are read when the method is called.

        Returns
        -------
        AnnData of the cells of the modality by the features, with float32 values in ``X``, and with ``obs`` and ``var``
        of the modality. ``uns["corrected_expression"]`` has the scale (``"counts"`` or ``"additive"``), the modality
        and the layer.

        Raises
        ------
        KeyError
            If the modality, the layer or a feature does not exist, or `mdata` lacks the modality.
        TypeError
            If `features` is one name instead of a list.
        ValueError
            If the model was loaded without data, or its cells are no longer those of the fit; if a feature is repeated,
            values are not finite, or the modality of `mdata` has other features than that of the model or values on
            another scale.
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        state: IntegrationState = self._fitted()
        self._check_modality(modality)
        source = self._get_modality(self._own_data("load it with the data that have the modality"), modality)
        own = source if mdata is None else self._get_modality(mdata, modality)
        if own is None:
            raise KeyError(f"modality {modality!r} is not in mdata: add it.")
        # the values of new cells are checked before the cells are mapped
        values = read_values(source, layer, modality, source.var_names)
        columns = select_features(source.var_names, features, modality)
        own_values = values if mdata is None else read_values(own, layer, modality, source.var_names)
        scale: Literal["counts", "additive"] = "counts" if hold_counts(values, modality, layer) else "additive"
        if mdata is not None and hold_counts(own_values, modality, layer) != (scale == "counts"):
            raise ValueError(
                f"the values of mdata are on another scale than those of the model, {scale}: use its layer."
            )
        joint = isinstance(state.space, JointSpace)
        cells = [ModalityCells(values, locate_cells(self._integrate_fitted_cells(), modality, joint, state))]
        if mdata is not None:
            query = self._integrate(mdata, sharpening=0.0)
            cells.append(ModalityCells(own_values, locate_cells(query, modality, joint, state)))
        way: Way = "linear" if scale == "additive" and len(self._modalities) == 1 else scale
        return anndata.AnnData(
            correct_values(cells[0], cells[-1], columns, way, self.settings_["random_state"]),
            obs=own.obs.copy(),
            var=source.var.iloc[columns].copy(),
            uns={"corrected_expression": {"scale": scale, "modality": modality, "layer": layer or "X"}},
        )

    def predict(
        self,
        mdata: mudata.MuData | anndata.AnnData | None = None,
        indices: Any = None,
        soft: bool = False,
        threshold: float | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predict the label of each cell from the labeled cells.

        The votes of the nearest labeled cells in the integrated space are combined with a classifier on the modality's
        own representation (``use_rep``), if that is another space, which is also trained on the labels of paired cells;
        with paired cells, also with linear classifiers in the integrated space. The confidence is calibrated on
        held-out labels; for cells in one modality, on paired cells embedded by that modality alone. A cell does not
        vote for itself, whether it is a cell of the model or passed in `mdata`: it is recognized by its place. But if
        its label is known, the classifiers were trained on it.

        Parameters
        ----------
        mdata
            Cells to label, as for :meth:`map_query`; by default the cells of the model.
        indices
            Cells to return, by position, name or mask; by default all. All cells of `mdata` are mapped.
        soft
            Return probabilities instead of labels.
        threshold
            Probability, 0..1, below which a cell gets the unlabeled category. None: each cell gets its likeliest label.

        Returns
        -------
        Categorical Series over ``mdata.obs_names``, with the name of ``labels_key``; or, if `soft`, DataFrame of
        probabilities, cells by labels, whose rows sum to 1.

        Raises
        ------
        TypeError
            If `soft` is not True or False, or `mdata` is no data, such as a former positional ``soft``.
        ValueError
            If no labels were set up, none is known, `threshold` is outside 0..1, or it is given with ``soft=True``.
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        state: IntegrationState = self._fitted()
        if state.labels is None:
            raise ValueError(
                f"there are no labels to predict: labels_key={self._setup.labels_key!r}. Set the data up with a "
                "labels_key that holds at least one label."
            )
        check_prediction(soft, threshold)
        check_data(mdata)
        # probabilities are calibrated without sharpening
        probabilities = self._label_probabilities(self._integrate(mdata, sharpening=0.0))
        if indices is not None:
            probabilities = probabilities.iloc[cell_positions(indices, probabilities.index, "indices")]
        return probabilities if soft else choose_labels(probabilities, threshold, self._setup)

    def _label_probabilities(self, integrated: IntegratedRows) -> pd.DataFrame:
        """Return the probabilities of the labels, cells by labels, of cells that were not sharpened."""
        state: IntegrationState = self._fitted()
        labels: LabelModel = self.state_.labels
        rows = integrated.embedded.rows
        z = standardize(integrated.y, state.center, state.scale)
        p = rows.to_cells(predict_labels(z, labels, get_representations(rows), rows.cell))
        p /= p.sum(axis=1, keepdims=True)
        return pd.DataFrame(p, index=rows.obs_names, columns=list(labels.names))

    @property
    def _match_shapes(self) -> bool:
        return len(self._modalities) > 1

    @property
    def _search_device(self) -> str | None:
        device = str(self.device)
        return None if device == "cpu" else device

    def _check_modality(self, modality: str) -> None:
        if modality not in self._modalities:
            raise KeyError(f"modality={modality!r} is not one of the model's {list(self._modalities)}.")

    def _get_modality(self, data: mudata.MuData | anndata.AnnData, modality: str) -> Any:
        """Return a modality of the data, as the rows are read from it; None if new cells lack it."""
        return select_modalities(data, self._setup, self._modalities).get(modality)

    def _integrate_fitted_cells(self) -> IntegratedRows:
        """Integrate the cells of the fit, without sharpening; data of the model that have changed since are refused."""
        integrated = self._integrate(None, sharpening=0.0)
        self._fitted().check_cells(code_cells(integrated.rows))
        return integrated

    def _integrate(
        self,
        data: mudata.MuData | anndata.AnnData | None,
        sharpening: float | None = None,
        embedded_as: IntegratedRows | None = None,
    ) -> IntegratedRows:
        """Integrate the cells of the model or new ones; unknown groups are fitted first.

        - `data`: New cells; None for those of the model.
        - `sharpening`: Strength of the sharpening in place of the fitted one. If it is given, types are not separated
          either: labels are predicted from coordinates that do not depend on labels.
        - `embedded_as`: The same cells, integrated with another sharpening, so that they are not read again.
        """
        state: IntegrationState = self._fitted()
        if sharpening is not None:
            state = replace(state, sharpening=sharpening, types=None)
        rows = self._rows(data) if embedded_as is None else embedded_as.rows
        with single_threaded():
            if embedded_as is None:
                embedded = embed_without_covariates(rows, state.space, state.covariates, self._search_device)
            else:
                embedded = embedded_as.embedded
            embedded.rows.check_width(len(state.center))
            how = self.settings_
            options = FitOptions(
                how["max_iter"],
                how["approximate"],
                (),
                how["random_state"],
                str(self.device),
                match_shapes=self._match_shapes,
            )
            maps = (*state.maps, *find_new_maps(embedded.rows, state, self._hyperparameters, options))
            codes = assign_maps(embedded.rows, state)
            y = transform_cells(embedded.rows.x, codes, state, maps=maps, device=self._search_device)
            return IntegratedRows(rows, embedded, y)


def choose_labels(probabilities: pd.DataFrame, threshold: float | None, setup: Setup) -> pd.Series:
    """Return the likeliest label of each cell, and the unlabeled category where its probability is too low."""
    p, names, unlabeled = probabilities.to_numpy(), list(probabilities.columns), setup.unlabeled_category
    categories = [*names, *([unlabeled] if unlabeled not in names else [])]
    code = p.argmax(axis=1)
    if threshold is not None:
        code = np.where(p.max(axis=1) < threshold, categories.index(unlabeled), code)
    values = pd.Categorical.from_codes(code, categories=categories)
    return pd.Series(values, index=probabilities.index, name=setup.labels_key).cat.remove_unused_categories()


def find_batch_of_cell(rows: Rows, batches: tuple[str, ...]) -> NDArray[np.int64]:
    """Find the position (n_cells,) of each cell's batch in `batches`, -1 if it is none of them."""
    position = {name: code for code, name in enumerate(batches)}
    code = np.array([position.get(name, -1) for name in rows.batches], dtype=np.int64)
    batch = np.full(rows.n_cells, -1, np.int64)
    batch[rows.cell] = code[rows.batch]
    return batch


def get_representations(rows: Rows) -> Representations:
    """Return the rows of each modality, and their own representation; None if that is the integrated space."""
    representations = {}
    for code, name in enumerate(rows.modalities):
        own = rows.own.get(name)
        shared = own is None or np.shares_memory(own, rows.x)
        representations[name] = (np.flatnonzero(rows.modality == code), None if shared else own)
    return representations


def check_prediction(soft: bool, threshold: float | None) -> None:
    if not isinstance(soft, bool):
        raise TypeError(f"soft={type(soft).__name__} must be True or False.")
    if threshold is not None and soft:
        raise ValueError(f"threshold={threshold!r} is for soft=False: probabilities are not rejected.")
    if threshold is not None:
        check_numbers(0, 1, threshold=threshold)


def check_data(data: object) -> None:
    """Raise a TypeError if an argument that holds cells holds something else, such as one of another argument."""
    if data is not None and not hasattr(data, "obs_names"):
        raise TypeError(f"the first argument is the data, an AnnData or MuData, not {data!r}: name other arguments.")


def _select_modality(integrated: IntegratedRows, state: IntegrationState, modality: str) -> NDArray[np.float32]:
    """Return the corrected representation (n_cells, d) of a modality."""
    cells, rows = integrated.cells, integrated.embedded.rows
    if isinstance(state.space, JointSpace):
        return split_modalities(state.space, cells)[modality]
    if modality in rows.modalities:
        measured = rows.modality == rows.modalities.index(modality)
        cells = cells.copy()
        cells[rows.cell[measured]] = integrated.y[measured]
    return cells
