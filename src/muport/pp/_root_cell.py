"""Where a pseudotime starts: a cell, the tip of a cluster, or the peak of a marker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from muport.data import joined_column

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

type Data = anndata.AnnData | mudata.MuData


@dataclass(frozen=True)
class Root:
    """One of three: the position of a cell, the (n_cells,) members of a cluster, or the (n_cells,) levels of a marker.

    A level is NaN where the marker was not measured.
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
    """Find what the user named among the cells of `holder`, which is `data` or one of its modalities.

    A marker is read from `expression`, if given, which has the cells of `holder`.

    Raises
    ------
    KeyError
        If the column, the cell or the marker is not there.
    ValueError
        If not exactly one root is named, the cluster is empty, or the marker is the same in all cells.
    """
    named = {"root_cluster": cluster, "root_cell": cell, "root_marker": marker}
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"give exactly one of root_cluster, root_cell and root_marker, not {given or 'none'}.")
    if cell is not None:
        return Root(cell=_position(holder, cell))
    if cluster is not None:
        return Root(member=_members(data, holder, labels_key, cluster))
    return Root(level=_levels(holder if expression is None else expression, str(marker), modality))


def _position(holder: Data, cell: str | int) -> int:
    if isinstance(cell, str):
        if cell not in holder.obs_names:
            raise KeyError(f"root_cell={cell!r} is not among the obs_names, for example {list(holder.obs_names[:3])}.")
        return int(holder.obs_names.get_loc(cell))
    if isinstance(cell, bool) or not isinstance(cell, int | np.integer):
        raise TypeError(f"root_cell={cell!r} must be the name of a cell or its position.")
    if not 0 <= cell < holder.n_obs:
        raise ValueError(f"root_cell={cell!r} must be a position between 0 and {holder.n_obs - 1}.")
    return int(cell)


def _members(data: Data, holder: Data, labels_key: str, cluster: str) -> NDArray[np.bool_]:
    column = joined_column(data, labels_key)
    codes = column.codes if holder is data else column.codes[data.obs_names.get_indexer(holder.obs_names)]
    member = codes == (column.names.index(str(cluster)) if str(cluster) in column.names else -2)
    if not member.any():
        held = [name for i, name in enumerate(column.names) if (codes == i).any()]
        raise ValueError(f"root_cluster={cluster!r} has no cells: labels_key={labels_key!r} holds {held}.")
    return np.asarray(member)


def _levels(holder: Data, marker: str, modality: str) -> NDArray[np.float64]:
    parts = dict(holder.mod) if isinstance(holder, mudata.MuData) else {modality: holder}
    order = sorted(parts, key=lambda name: name != modality)
    found = next((name for name in order if marker in parts[name].var_names), None)
    if found is None:
        raise KeyError(f"root_marker={marker!r} is not among the var_names, for example {list(holder.var_names[:3])}.")
    part: Any = parts[found]
    values = part.X[:, [int(np.flatnonzero(part.var_names == marker)[0])]]
    values = np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64).ravel()
    level = np.full(holder.n_obs, np.nan)
    level[holder.obs_names.get_indexer(part.obs_names)] = values
    if not np.nanmax(level) > np.nanmin(level):
        raise ValueError(f"root_marker={marker!r} has the same value in all cells: it tells no root.")
    return level


def find_root(root: Root, distance: NDArray[np.float64], graph: sparse.csr_array) -> int:
    """Return the position of the root cell.

    A cluster's root is that cell of its core whose neighbourhood is the farthest, in diffusion distance, from the mean
    of the cells outside; the core is the half of the cluster with most of the cluster around it, since the farthest
    cells of all are those that lie elsewhere. A marker's root is the cell whose neighbourhood has the highest mean. A
    neighbourhood is a cell and its neighbours, weighted by the graph; of equal cells the first is the root.

    Parameters
    ----------
    root
        What the user named.
    distance
        (n_cells, k) coordinates whose Euclidean distance is the diffusion distance.
    graph
        (n_cells, n_cells) symmetric connectivities.
    """
    if root.cell is not None:
        return root.cell
    mean = graph + sparse.eye_array(graph.shape[0], format="csr")
    if root.level is not None:
        known = ~np.isnan(root.level)
        weight = mean @ known.astype(np.float64)
        total = mean @ np.where(known, root.level, 0.0)
        return int(np.where(known, total / np.maximum(weight, 1e-300), -np.inf).argmax())
    if root.member is None:
        raise ValueError("the root names nothing.")
    mean = sparse.diags_array(1 / mean.sum(axis=1)) @ mean
    return _tip(root.member, mean @ distance, mean @ root.member.astype(np.float64), graph)


def _tip(
    member: NDArray[np.bool_], place: NDArray[np.float64], share: NDArray[np.float64], graph: sparse.csr_array
) -> int:
    component = connected_components(graph, directed=False)[1]
    # distances mean something within one component: that with most cells of the cluster
    here = component == np.bincount(component[member]).argmax()
    inside, outside = here & member, here & ~member
    # deep inside all shares are 1 up to rounding, which must not decide
    core = inside & (share >= np.median(share[inside]) - 1e-6)
    center = place[outside if outside.any() else here].mean(axis=0)
    squared = ((place - center) ** 2).sum(axis=1)
    return int(np.where(core, squared, -np.inf).argmax())
