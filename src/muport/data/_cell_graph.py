"""The neighbor graph of cells, under the names of scanpy, and a mark by which muport knows its own."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from muport.neighbors._fuzzy_graph import fuzzy_graph

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.neighbors._fuzzy_graph import FuzzyGraph

__all__ = ["compute_graph", "describe_graph", "is_own_graph"]

_MARK = "muport_checksum"


def compute_graph(
    x: NDArray[np.float32], n_neighbors: int, use_rep: str, *, key_added: str | None = None, random_state: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the ``obsp`` and ``uns`` that ``scanpy.pp.neighbors`` writes, with a mark.

    - `x`: (n_cells, d) coordinates.
    - `use_rep`: Their key in ``obsm``.
    """
    graph = fuzzy_graph(x, n_neighbors, random_state)
    return describe_graph(graph, use_rep, key_added=key_added, random_state=random_state)


def describe_graph(
    graph: FuzzyGraph, use_rep: str, *, key_added: str | None = None, random_state: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the ``obsp`` and ``uns`` of a graph; see :func:`compute_graph`."""
    prefix = "" if key_added is None else f"{key_added}_"
    keys = {f"{name}_key": f"{prefix}{name}" for name in ("connectivities", "distances")}
    params = {"n_neighbors": graph.n_neighbors, "method": "umap", "random_state": random_state, "metric": "euclidean"}
    matrices = {"connectivities": graph.connectivities, "distances": graph.distances}
    entry = {**keys, "params": {**params, "use_rep": use_rep}, _MARK: _checksum(graph.distances, graph.connectivities)}
    obsp = {f"{prefix}{name}": matrix for name, matrix in matrices.items()}
    return {"obsp": obsp, "uns": {key_added or "neighbors": entry}}


def is_own_graph(data: anndata.AnnData | mudata.MuData, key: str = "neighbors") -> bool:
    """Return whether muport wrote the graph in ``uns[key]``, and nothing in it was changed since."""
    graph = data.uns.get(key)
    if not isinstance(graph, dict) or _MARK not in graph:
        return False
    names = [graph.get(f"{name}_key", name) for name in ("distances", "connectivities")]
    return all(name in data.obsp for name in names) and str(graph[_MARK]) == _checksum(*(data.obsp[n] for n in names))


def _checksum(*matrices: Any) -> str:
    total = 0
    for given in matrices:
        matrix = sparse.csr_matrix(given)
        # a file may hold the same integers in another type
        for values in (matrix.data.astype(np.float32), matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)):
            total = zlib.crc32(np.ascontiguousarray(values).tobytes(), total)
    return f"{total:08x}"
