"""What a fitted integration tells of cells: where they are, what they are, and what was not measured of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.data import MuDataModel, layer_of
from muport.integration._fitted_state import standardize
from muport.integration._working_space import make_network_views
from muport.integration.labels._label_transfer import predict_labels
from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.spaces._joint_space import JointSpace, split_modalities
from muport.integration.vae._trained_network import refine

if TYPE_CHECKING:
    import mudata
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._fitted_state import IntegrationState
    from muport.integration._working_space import EmbeddedRows

__all__ = ["IntegrationInference", "Mapped", "batch_of_cell", "get_own_views"]

_SOURCES = 15  # measured cells that a missing measurement is taken from


@dataclass(frozen=True, eq=False)
class Mapped:
    """Rows as they are, rows in the integrated space, and where they are there.

    Attributes
    ----------
    rows
        One row for each measurement.
    embedded
        The rows that were integrated.
    y
        (n_placed, d) integrated coordinates.
    """

    rows: Rows
    embedded: EmbeddedRows
    y: NDArray[np.float32]


class IntegrationInference(MuDataModel):
    """Methods of a fitted integration: its own cells or new ones in the integrated space, their labels and values."""

    @abstractmethod
    def _mapped(self, data: mudata.MuData | anndata.AnnData | None, sharpening: float | None = None) -> Mapped: ...

    def _check_modality(self, modality: str) -> None:
        if modality not in self._modalities:
            raise KeyError(f"modality={modality!r} is not one of the model's {list(self._modalities)}.")

    def get_latent_representation(
        self, mdata: mudata.MuData | anndata.AnnData | None = None, modality: str | None = None
    ) -> NDArray[np.float32]:
        """Return integrated coordinates.

        Parameters
        ----------
        mdata
            Cells to map; those the model was set up with by default. Other cells go through :meth:`map_query`.
        modality
            Return the corrected representation of this modality instead. In a joint space it has the coordinates of the
            modality's own representation, and that of a cell without the modality is what the others tell. Elsewhere it
            is where the cell's measurement in that modality alone puts it.

        Returns
        -------
        (n_obs, d) float32, row i for ``mdata.obs_names[i]``. Where modalities share a representation, in its
        coordinates: a cell measured in several modalities is at the mean of its rows. In a joint space, the corrected
        representations of all modalities side by side, each by its weight in the cell, and the shared coordinates if
        ``shared_rep`` was given and cells lack a modality. With ``refine="vae"``, the latent of the network.

        Raises
        ------
        KeyError
            If the model has no such modality.
        sklearn.exceptions.NotFittedError
            Before :meth:`train`.
        """
        state: IntegrationState = self._fitted()
        if modality is not None:
            self._check_modality(modality)
        mapped = self._mapped(mdata)
        if modality is not None:
            return _of_modality(mapped, state, modality)
        if state.network is None:
            return mapped.embedded.rows.to_cells(mapped.y)
        first, second = make_network_views(
            mapped.y, mapped.embedded, state.space, by_modality=state.network.second_statistics is not None
        )
        return refine(state.network, first, batch_of_cell(mapped.embedded.rows, state.batches), second=second)

    def map_query(self, mdata: mudata.MuData | anndata.AnnData) -> NDArray[np.float32]:
        """Map new cells without refitting. The model and `mdata` stay as they are.

        Cells of a known batch go through its map: as in training, a cell's place does not depend on the cells that come
        with it. A new batch is transported onto the fitted centres first, so it should hold enough cells to tell.

        Parameters
        ----------
        mdata
            New cells with the ``obsm`` keys and batch column of the set-up; labels are not needed, and one of the
            modalities is enough. It need not be set up.

        Returns
        -------
        (n_obs, d) float32 in the order of ``mdata.obs_names``.

        Raises
        ------
        KeyError, ValueError
            As :meth:`setup_mudata`, and if the width differs from the model's.
        """
        return self.get_latent_representation(mdata)

    def get_modality_weights(self, mdata: mudata.MuData | anndata.AnnData | None = None) -> pd.DataFrame:
        """Return how much each modality says of where a cell is.

        Parameters
        ----------
        mdata
            Cells; those the model was set up with by default.

        Returns
        -------
        Cells by modalities; rows sum to 1. In a joint space a modality weighs more, the better it predicts the other
        modalities' neighbourhood of the cell. Elsewhere the modalities that a cell is measured in weigh the same.
        """
        mapped = self._mapped(mdata)
        if mapped.embedded.modality_weights is not None:
            weights: NDArray[np.floating] = mapped.embedded.modality_weights
        else:
            rows, weights = mapped.rows, np.zeros((mapped.rows.n_cells, len(self._modalities)))
            column = np.array([self._modalities.index(name) for name in rows.modalities])
            weights[rows.cell, column[rows.modality]] = 1
            weights /= weights.sum(axis=1, keepdims=True)
        return pd.DataFrame(weights, index=mapped.rows.obs_names, columns=list(self._modalities))

    def impute(
        self,
        modality: str,
        layer: str | None = None,
        mdata: mudata.MuData | anndata.AnnData | None = None,
        n_neighbors: int = _SOURCES,
    ) -> anndata.AnnData:
        """Fill in what was not measured, by barycentric projection onto the model's cells that were.

        A cell without the modality gets the kernel mean of the nearest cells with it in the integrated space; a cell
        with it keeps its own values.

        Parameters
        ----------
        modality
            Modality to complete.
        layer
            Layer to take values from; None for ``X``.
        mdata
            Cells to complete; those the model was set up with by default. The values come from the latter in any case.
        n_neighbors
            Number of measured cells that a value is a mean of.

        Returns
        -------
        AnnData of all cells and the features of the modality: ``X`` (sparse if the modality's is), ``obsm`` with the
        modality's own representation, and ``obs["measured"]``.

        Raises
        ------
        KeyError
            If the model has no such modality, or its data no such layer.
        ValueError
            If the model was loaded without data, or `n_neighbors` is not a positive integer.
        """
        self._fitted()
        self._check_modality(modality)
        if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, int | np.integer) or n_neighbors < 1:
            raise ValueError(f"n_neighbors={n_neighbors!r} must be an integer of at least 1.")
        source = _part(self._own_data("load it with the data that hold the modality"), modality)
        values = _values(source, layer, modality)
        measured = self._mapped(None, sharpening=0.0)
        asked = measured if mdata is None else self._mapped(mdata, sharpening=0.0)
        own = source if mdata is None else _part(mdata, modality)
        weight, keep = _barycentric(measured, asked, modality, n_neighbors)
        measurements = values if own is source else _values(own, layer, modality)
        out = anndata.AnnData(
            _filled(weight, keep, values, measurements),
            obs=pd.DataFrame({"measured": np.diff(keep.indptr) > 0}, index=asked.rows.obs_names),
            var=source.var.copy(),
        )
        key = self._own_key(modality)
        if key is not None:
            rep = None if own is None else np.asarray(own.obsm[key], np.float32)
            out.obsm[key] = _filled(weight, keep, np.asarray(source.obsm[key], np.float32), rep)
        return out

    def _own_key(self, modality: str) -> str | None:
        keys = self._setup.use_rep
        return keys if isinstance(keys, str) else (keys or {}).get(modality)

    def predict(
        self,
        soft: bool = False,
        threshold: float | None = None,
        mdata: mudata.MuData | anndata.AnnData | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predict the label of every cell from the labelled cells around it.

        The votes of the nearest labeled cells in the integrated space are combined with a classifier on the modality's
        own representation (``use_rep``), if that is another space, which is also trained on the labels of paired cells;
        with paired cells, also with linear classifiers in the integrated space. The confidence is calibrated on
        held-out labels; for cells in one modality, on paired cells embedded by that modality alone. A cell does not
        vote for itself, but if its label is known, the classifiers were trained on it.

        Parameters
        ----------
        soft
            Return probabilities.
        threshold
            Confidence below which a cell is given the unlabelled category.
        mdata
            Cells to label; those the model was set up with by default.

        Returns
        -------
        A categorical Series over ``mdata.obs_names``, named as ``labels_key``; or, if `soft`, a DataFrame of
        probabilities (cells by labels) whose rows sum to 1. No cell is left out.

        Raises
        ------
        ValueError
            If no labels were set up, none is known, `threshold` is outside 0..1, or is given with ``soft=True``.
        """
        state: IntegrationState = self._fitted()
        if state.labels is None:
            raise ValueError(
                f"there are no labels to predict: labels_key={self._setup.labels_key!r}. Set the data up with a "
                "labels_key that holds at least one label."
            )
        _check_prediction(soft, threshold)
        mapped = self._mapped(mdata, sharpening=0.0)
        rows = mapped.embedded.rows
        z = standardize(mapped.y, state.center, state.scale)
        p = rows.to_cells(predict_labels(z, state.labels, get_own_views(rows), rows.cell))
        p /= p.sum(axis=1, keepdims=True)
        names = state.labels.names
        if soft:
            return pd.DataFrame(p, index=rows.obs_names, columns=list(names))
        chosen = p.argmax(axis=1)
        unlabeled = self._setup.unlabeled_category
        categories = [*names, *([unlabeled] if unlabeled not in names else [])]
        if threshold is not None:
            chosen = np.where(p.max(axis=1) < threshold, categories.index(unlabeled), chosen)
        values = pd.Categorical.from_codes(chosen, categories=categories)
        return pd.Series(values, index=rows.obs_names, name=self._setup.labels_key).cat.remove_unused_categories()


def get_own_views(rows: Rows) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32] | None]]:
    """Return the rows of each modality, and its own representation unless that is the integrated space."""
    views = {}
    for code, name in enumerate(rows.modalities):
        own = rows.own.get(name)
        shared = own is None or np.shares_memory(own, rows.x)
        views[name] = (np.flatnonzero(rows.modality == code), None if shared else own)
    return views


def _check_prediction(soft: bool, threshold: float | None) -> None:
    if not isinstance(soft, bool):
        raise TypeError(f"soft={type(soft).__name__} must be True or False: pass cells as mdata=.")
    if threshold is not None and soft:
        raise ValueError(f"threshold={threshold!r} is for soft=False: probabilities are not rejected.")
    if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
        raise ValueError(f"threshold={threshold!r} must be a number between 0 and 1.")


def _of_modality(mapped: Mapped, state: IntegrationState, modality: str) -> NDArray[np.float32]:
    rows, y = mapped.embedded.rows, mapped.y
    if isinstance(state.space, JointSpace):
        return split_modalities(state.space, rows.to_cells(y))[modality]
    cells = rows.to_cells(y)
    if modality in rows.modalities:
        chosen = rows.modality == rows.modalities.index(modality)
        cells = cells.copy()
        cells[rows.cell[chosen]] = y[chosen]
    return cells


def batch_of_cell(rows: Rows, batches: tuple[str, ...]) -> NDArray[np.int64]:
    """(n_cells,) position of each cell's batch in `batches`, -1 where it is none of them."""
    position = {name: code for code, name in enumerate(batches)}
    code = np.array([position.get(name, -1) for name in rows.batches], dtype=np.int64)
    batch = np.full(rows.n_cells, -1, np.int64)
    batch[rows.cell] = code[rows.batch]
    return batch


def _part(data: Any, modality: str) -> Any:
    """Return the modality of a MuData, or the AnnData itself; None if new cells lack it."""
    return data.mod.get(modality) if hasattr(data, "mod") else data


def _values(part: Any, layer: str | None, modality: str) -> Any:
    """Return what a modality holds, in memory; None for new cells that lack it."""
    if part is None:
        return None
    values = layer_of(part, layer, f"modality {modality!r}")
    return values.to_memory() if hasattr(values, "to_memory") else values


def _barycentric(
    measured: Mapped, asked: Mapped, modality: str, n_neighbors: int
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Weights (n_asked, n_source) of sources for the cells that lack a modality, and (n_asked, n_own) 1 for the rest.

    Columns are cells of the modality, in its order.
    """
    source = _positions(measured.rows, modality)
    own = _positions(asked.rows, modality)
    lacking = np.setdiff1d(np.arange(asked.rows.n_cells), own)
    shape = (asked.rows.n_cells, len(source))
    keep = sparse.csr_array(
        (np.ones(len(own), np.float32), (own, np.arange(len(own)))), shape=(asked.rows.n_cells, len(own))
    )
    if len(lacking) == 0:
        return sparse.csr_array(shape, dtype=np.float32), keep
    there = measured.embedded.rows.to_cells(measured.y)[source]
    here = asked.embedded.rows.to_cells(asked.y)[lacking]
    near, weight = soft_assign(here, there, n_neighbors=n_neighbors)
    entries = (weight.ravel(), (np.repeat(lacking, near.shape[1]), near.ravel()))
    return sparse.csr_array(entries, shape=shape), keep


def _positions(rows: Rows, modality: str) -> NDArray[np.int64]:
    """Cells of a modality, in its order."""
    if modality not in rows.modalities:
        return np.empty(0, np.int64)
    found: NDArray[np.int64] = rows.cell[rows.modality == rows.modalities.index(modality)]
    return found


def _filled(weight: sparse.csr_array, keep: sparse.csr_array, source: Any, own: Any) -> Any:
    if sparse.issparse(source):
        filled = weight @ sparse.csr_array(source)
        return (filled if own is None else filled + keep @ sparse.csr_array(own)).tocsr().astype(np.float32)
    filled = weight @ np.asarray(source)
    return np.asarray(filled if own is None else filled + keep @ np.asarray(own), np.float32)
