"""Values of the features of a modality from which the effects of the batches are removed, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse
from sklearn.utils import gen_batches

from muport._keys import join_levels, split_levels
from muport.integration._batch_effects import LocatedCells, fit_centers, fit_effects
from muport.integration._feature_values import find_cells

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState
    from muport.integration._working_space import IntegratedRows
    from muport.integration.batch_variables._variable_effects import VariableEffects

#: Counts are divided by factors; from other values differences are subtracted. In the linear way, values first follow
#: the cells through the coordinates of the input.
type Way = Literal["counts", "additive", "linear"]

__all__ = ["ModalityCells", "correct_values", "hold_counts", "locate_cells", "select_features"]

_BLOCK = 2**23  # values of a block of cells, and of the sums of a block of features


@dataclass(frozen=True, eq=False)
class ModalityCells:
    """Cells of a modality with their values.

    - `values`: (n, g) values of all features, dense or sparse.
    - `cells`: Where the cells lie, before and after the integration.
    """

    values: Any
    cells: LocatedCells


def locate_cells(integrated: IntegratedRows, modality: str, joint: bool, state: IntegrationState) -> LocatedCells:
    """Locate the cells of a modality, in its order.

    - `joint`: Whether the space has one row for each cell, not one for each measurement.
    - `state`: Its batches have the first codes; those of other batches follow.

    Of several batch variables, only those count whose effects the integration removes.
    """
    rows = integrated.embedded.rows
    taken = find_cells(integrated.rows, modality) if joint else rows.modality == rows.modalities.index(modality)
    names = [_name_removed_levels(name, state.variables) for name in (*state.batches, *rows.batches)]
    position = {name: code for code, name in enumerate(dict.fromkeys(names))}
    codes = [position[name] for name in names[len(state.batches) :]]
    batch = np.array(codes, np.int64)[rows.batch[taken]]
    return LocatedCells(rows.x[taken], integrated.y[taken], batch)


def _name_removed_levels(batch: str, variables: VariableEffects | None) -> str:
    """Return the part of the name of a batch that names levels of variables whose effects are removed."""
    levels = split_levels(batch) if variables is not None else ()
    if variables is None or len(levels) < 2:
        return batch
    fractions = variables.fractions[: len(levels)]
    if any(0 < fraction < 1 for fraction in fractions):
        raise ValueError(
            f"the effects of {list(variables.names)} are removed to the fractions {list(variables.fractions)}, which "
            "values of features cannot follow: give each batch variable the strength 0 or the largest one."
        )
    return join_levels([level for level, fraction in zip(levels, fractions, strict=True) if fraction == 1])


def select_features(names: pd.Index, features: Iterable[str] | None, modality: str) -> NDArray[np.int64]:
    """Find the columns of features by name; unknown and repeated ones are refused."""
    if features is None:
        return np.arange(len(names))
    if isinstance(features, str):
        raise TypeError(f"features={features!r} must be a list of names: pass [{features!r}].")
    asked = list(features)
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise KeyError(
            f"{len(unknown)} of the features are not in modality {modality!r}, for example {unknown[:3]}: its features "
            f"are {list(names[:3])} and so on ({len(names)})."
        )
    if len(set(asked)) < len(asked) or not asked:
        repeated = sorted({name for name in asked if asked.count(name) > 1})
        raise ValueError(f"features={asked[:3]} and so on must be different names, at least one; repeated: {repeated}.")
    columns: NDArray[np.int64] = names.get_indexer(asked).astype(np.int64)
    return columns


def hold_counts(values: Any, modality: str, layer: str | None) -> bool:
    """Return whether all values are whole numbers of at least 0; values that are not finite are refused."""
    entries = np.asarray(values.data if sparse.issparse(values) else values).reshape(-1)
    counts = True
    for part in gen_batches(max(entries.size, 1), _BLOCK):
        block = entries[part]
        if not np.isfinite(block).all():
            where = "X" if layer is None else f"layer {layer!r}"
            raise ValueError(f"{where} of modality {modality!r} holds NaN or Inf: replace such values first.")
        counts = counts and bool((block >= 0).all() and (block == np.floor(block)).all())
    return counts


def correct_values(
    reference: ModalityCells, query: ModalityCells, columns: NDArray[np.int64], way: Way, seed: int
) -> Any:
    """Remove the effects of the batches from the values of some features.

    - `reference`: Cells of the model, which the effects are estimated from.
    - `query`: Cells whose values are corrected; the same object for those of the model.
    - `columns`: (g,) features to return.
    - `way`: How effects are removed.

    Returns (n, g) float32 values of the query: sparse if they are sparse counts.
    """
    centers = fit_centers(reference.cells, int(reference.cells.batch.max(initial=-1)) + 1, seed)
    counts = way == "counts"
    sizes = [_sum_rows(cells.values) if counts else None for cells in (reference, query)]
    step = max(1, _BLOCK // (len(centers.position) * len(centers.fixed)))
    parts = []
    for part in gen_batches(len(columns), step):
        own, other = (_take_columns(cells, columns[part], counts) for cells in (reference, query))
        if way == "linear":
            loadings = _fit_loadings(own)
            other = _follow(other, loadings)
            own = other if query is reference else _follow(own, loadings)
        new = None if query is reference else (other.values, other.cells, sizes[1])
        effects = fit_effects(own.values, own.cells, centers, sizes[0], new)
        for rows in gen_batches(len(other.cells.y), max(1, _BLOCK // len(columns[part]))):
            effect = effects.at(centers, other.cells.y[rows], other.cells.batch[rows])
            _remove(other.values, rows, effect, counts)
        parts.append(other.values)
    if len(parts) == 1:
        return parts[0]
    return sparse.hstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts, axis=1)


def _take_columns(cells: ModalityCells, columns: NDArray[np.int64], counts: bool) -> ModalityCells:
    """Copy some columns as float32; only counts stay sparse, because their zeros stay zeros."""
    values = cells.values[:, columns]
    if sparse.issparse(values):
        values = values.tocsr() if counts else values.toarray()
    return replace(cells, values=values.astype(np.float32))


def _sum_rows(values: Any) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
    return sums


def _fit_loadings(cells: ModalityCells) -> NDArray[np.float32]:
    """Fit the values linearly to the input coordinates: (d, g). For the values of a PCA, these are its loadings."""
    x = cells.cells.x.astype(np.float64)
    x -= x.mean(axis=0)
    loadings: NDArray[np.float32] = (np.linalg.pinv(x.T @ x, hermitian=True) @ (x.T @ cells.values)).astype(np.float32)
    return loadings


def _follow(cells: ModalityCells, loadings: NDArray[np.float32]) -> ModalityCells:
    """Move the values as the integration moved the cells, x - y, in place."""
    at = cells.cells
    for rows in gen_batches(len(at.x), max(1, _BLOCK // loadings.shape[1])):
        cells.values[rows] -= (at.x[rows] - at.y[rows]) @ loadings
    return cells


def _remove(values: Any, rows: slice, effect: NDArray[np.float32], counts: bool) -> None:
    """Subtract effects from values, or divide counts by their factors, in place."""
    if not counts:
        values[rows] -= effect
    elif sparse.issparse(values):
        start, stop = values.indptr[rows.start], values.indptr[min(rows.stop, values.shape[0])]
        row = np.repeat(np.arange(len(effect)), np.diff(values.indptr[rows.start : rows.start + len(effect) + 1]))
        values.data[start:stop] *= np.exp(-effect[row, values.indices[start:stop]])
    else:
        values[rows] *= np.exp(-effect)
