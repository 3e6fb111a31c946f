"""The values of the features of a modality: read by name, located among the cells, and filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from muport.data import in_memory, layer_of
from muport.integration.prototypes._prototypes import soft_assign

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._working_space import IntegratedRows

__all__ = ["check_finite", "compute_imputation_weights", "fill_in", "find_cells", "locate_features", "read_values"]


def read_values(part: Any, layer: str | None, modality: str, features: pd.Index) -> Any:
    """Return the values of the features of a modality, in memory; None if new cells lack the modality.

    - `features`: Names of the features of the model; the columns are taken by name.
    """
    if part is None:
        return None
    if not hasattr(part, "layers"):
        raise ValueError(
            f"modality {modality!r} is a space of all cells, which has no values: there is nothing to impute."
        )
    order = locate_features(part.var_names, features, modality)
    values = layer_of(part, layer, f"modality {modality!r}")
    if values is None:
        raise KeyError(f"modality {modality!r} has no X: name one of its layers, {sorted(part.layers)}, as layer=.")
    values = in_memory(values)
    return values if np.array_equal(order, np.arange(len(order))) else values[:, order]


def check_finite(values: Any, modality: str, layer: str | None) -> None:
    """Raise a ValueError if values are not finite, or a TypeError if they are no numbers; None has no values."""
    if values is None:
        return
    entries = np.asarray(values.data if sparse.issparse(values) else values)
    where = f"{'X' if layer is None else f'layer {layer!r}'} of modality {modality!r}"
    if entries.dtype.kind not in "biuf":
        raise TypeError(f"{where} holds {entries.dtype}, not numbers.")
    if entries.dtype.kind == "f" and not np.isfinite(entries.sum(dtype=np.float64)) and not np.isfinite(entries).all():
        raise ValueError(f"{where} holds NaN or Inf: replace such values first.")


def locate_features(names: pd.Index, features: pd.Index, modality: str) -> NDArray[np.int64]:
    """Find the column of each feature of the model; other, missing and repeated features are refused."""
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"var_names of {modality!r} repeat {len(repeated)} features, for example {list(repeated[:3])}: call "
            "var_names_make_unique(), or keep one of each."
        )
    for fault, lacking, fix in (
        ("lacks", features.difference(names), "add them, or leave the modality out of mdata"),
        ("has", names.difference(features), f"subset it to the features of the model, mdata[{modality!r}][:, names]"),
    ):
        if len(lacking):
            of_model = "of the model" if fault == "lacks" else "that the model lacks"
            raise ValueError(
                f"modality {modality!r} {fault} {len(lacking)} features {of_model}, for example {list(lacking[:3])}: "
                f"{fix}."
            )
    columns: NDArray[np.int64] = names.get_indexer(features).astype(np.int64)
    return columns


def compute_imputation_weights(
    reference: IntegratedRows, query: IntegratedRows, modality: str, n_neighbors: int
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Compute the matrices that fill in a modality.

    Returns (n_query, n_source) weights of the reference cells that have the modality, for the query cells that lack it;
    and (n_query, n_own) with a 1 for each query cell that has it. Columns are cells of the modality, in its order.
    """
    source = find_cells(reference.rows, modality)
    own = find_cells(query.rows, modality)
    n_query = query.rows.n_cells
    ones = np.ones(len(own), np.float32)
    selection = sparse.csr_array((ones, (own, np.arange(len(own)))), shape=(n_query, len(own)))
    lacking = np.setdiff1d(np.arange(n_query), own)
    shape = (n_query, len(source))
    if len(lacking) == 0:
        return sparse.csr_array(shape, dtype=np.float32), selection
    neighbors, weight = soft_assign(query.cells[lacking], reference.cells[source], n_neighbors=n_neighbors)
    entries = (weight.ravel(), (np.repeat(lacking, neighbors.shape[1]), neighbors.ravel()))
    return sparse.csr_array(entries, shape=shape), selection


def find_cells(rows: Rows, modality: str) -> NDArray[np.int64]:
    """Find the cells of a modality, in its order."""
    if modality not in rows.modalities:
        return np.empty(0, np.int64)
    cells: NDArray[np.int64] = rows.cell[rows.modality == rows.modalities.index(modality)]
    return cells


def fill_in(weights: sparse.csr_array, selection: sparse.csr_array, source: Any, own: Any) -> Any:
    """Return the values of all query cells: means of `source`, and `own` values of the cells that have them."""
    if sparse.issparse(source):
        filled = weights @ sparse.csr_array(source)
        return (filled if own is None else filled + selection @ sparse.csr_array(own)).tocsr().astype(np.float32)
    filled = weights @ np.asarray(source)
    return np.asarray(filled if own is None else filled + selection @ np.asarray(own), np.float32)
