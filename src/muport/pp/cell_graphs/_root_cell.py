"""The root of a pseudotime: a cell, the outermost cell of a cluster, or the cell with the highest marker level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse

from muport.data import joined_column

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

type Data = anndata.AnnData | mudata.MuData


@dataclass(frozen=True)
class Root:
    """The user's choice of a root. Exactly one field is set.

    - `cell`: Position of the cell.
    - `member`: (n_cells,) whether a cell is in the cluster.
    - `level`: (n_cells,) values of the marker, NaN where it was not measured.
    """

    cell: int | None = None
    member: NDArray[np.bool_] | None = None
    level: NDArray[np.float64] | None = None


def read_root(
    data: Data,
    holder: Data,
    labels_key: str,
    modality: str,
    *,
    cluster: str | None = None,
    cell: str | int | None = None,
    marker: str | None = None,
    expression: anndata.AnnData | None = None,
) -> Root:
    """Look up the root among the cells of `holder`, which is `data` or one of its modalities.

    A marker is read from `expression` if given, which has the cells of `holder`.

    Raises KeyError if the column, the cell or the marker does not exist; ValueError if not exactly one root is given,
    the cluster is empty, or the marker is the same in all cells.
    """
    roots = {"root_cluster": cluster, "root_cell": cell, "root_marker": marker}
    given = {name: value for name, value in roots.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"give exactly one of root_cluster, root_cell and root_marker, not {given or 'none'}.")
    if cell is not None:
        return Root(cell=_cell_position(holder, cell))
    if cluster is not None:
        return Root(member=_cluster_members(data, holder, labels_key, cluster))
    return Root(level=_marker_levels(holder if expression is None else expression, str(marker), modality))


def _cell_position(holder: Data, cell: str | int) -> int:
    if isinstance(cell, str):
        if cell not in holder.obs_names:
            raise KeyError(f"root_cell={cell!r} is not among the obs_names, for example {list(holder.obs_names[:3])}.")
        return int(holder.obs_names.get_loc(cell))
    if isinstance(cell, bool) or not isinstance(cell, int | np.integer):
        raise TypeError(f"root_cell={cell!r} must be the name of a cell or its position.")
    if not 0 <= cell < holder.n_obs:
        raise ValueError(f"root_cell={cell!r} must be a position between 0 and {holder.n_obs - 1}.")
    return int(cell)


def _cluster_members(data: Data, holder: Data, labels_key: str, cluster: str) -> NDArray[np.bool_]:
    column = joined_column(data, labels_key, "labels_key")
    codes = column.codes if holder is data else column.codes[data.obs_names.get_indexer(holder.obs_names)]
    member = codes == (column.names.index(str(cluster)) if str(cluster) in column.names else -2)
    if not member.any():
        present = [name for i, name in enumerate(column.names) if (codes == i).any()]
        raise ValueError(f"root_cluster={cluster!r} has no cells: labels_key={labels_key!r} holds {present}.")
    return np.asarray(member)


def _marker_levels(holder: Data, marker: str, modality: str) -> NDArray[np.float64]:
    modalities = dict(holder.mod) if isinstance(holder, mudata.MuData) else {modality: holder}
    # the modality that the user named comes first
    order = sorted(modalities, key=lambda name: name != modality)
    source = next((name for name in order if marker in modalities[name].var_names), None)
    if source is None:
        raise KeyError(f"root_marker={marker!r} is not among the var_names, for example {list(holder.var_names[:3])}.")
    adata: Any = modalities[source]
    values = adata.X[:, [int(np.flatnonzero(adata.var_names == marker)[0])]]
    values = np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64).ravel()
    level = np.full(holder.n_obs, np.nan)
    level[holder.obs_names.get_indexer(adata.obs_names)] = values
    if not np.nanmax(level) > np.nanmin(level):
        raise ValueError(f"root_marker={marker!r} has the same value in all cells, so it does not define a root.")
    return level


def find_root(root: Root, distance: NDArray[np.float64], graph: sparse.csr_array) -> int:
    """Return the position of the root cell.

    The neighborhood of a cell is the cell and its neighbors, weighted by the graph. For a cluster, the root is the cell
    of the cluster's core whose neighborhood is farthest, in diffusion distance, from the mean of the cells outside the
    cluster. The core is the half of the cluster with the largest fraction of the cluster in its neighborhood; without
    it, the farthest cells would be outliers that lie far from the rest of the cluster. For a marker, the root is the
    cell whose neighborhood has the highest mean level. If cells are equal, the root is the first of them.

    - `distance`: (n_cells, k) coordinates whose Euclidean distance is the diffusion distance.
    - `graph`: (n_cells, n_cells) symmetric connectivities, of one piece.
    """
    if root.cell is not None:
        return root.cell
    neighborhood = graph + sparse.eye_array(graph.shape[0], format="csr")
    if root.level is not None:
        measured = ~np.isnan(root.level)
        weight = neighborhood @ measured.astype(np.float64)
        total = neighborhood @ np.where(measured, root.level, 0.0)
        return int(np.where(measured, total / np.maximum(weight, 1e-300), -np.inf).argmax())
    if root.member is None:
        raise ValueError("the root has no cell, cluster or marker.")
    mean = sparse.diags_array(1 / neighborhood.sum(axis=1)) @ neighborhood
    return _outermost_cell(root.member, mean @ distance, mean @ root.member.astype(np.float64))


def _outermost_cell(member: NDArray[np.bool_], x: NDArray[np.float64], fraction: NDArray[np.float64]) -> int:
    """Return the core cell of a cluster whose smoothed coordinates are farthest from the cells outside.

    - `member`: (n_cells,) whether a cell is in the cluster.
    - `x`: (n_cells, k) coordinates, averaged over neighborhoods.
    - `fraction`: (n_cells,) fraction of the neighborhood that is in the cluster.
    """
    # well inside the cluster all fractions are 1 up to rounding, hence the tolerance
    core = member & (fraction >= np.median(fraction[member]) - 1e-6)
    center = x[slice(None) if member.all() else ~member].mean(axis=0)
    squared = ((x - center) ** 2).sum(axis=1)
    return int(np.where(core, squared, -np.inf).argmax())
