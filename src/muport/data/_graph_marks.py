"""A mark and a checksum of the neighbor graphs that muport wrote into the data of the user."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    import anndata
    import mudata

__all__ = ["is_own_graph", "mark_graph"]

_MARK = "muport_checksum"


def mark_graph(data: anndata.AnnData | mudata.MuData, key: str = "neighbors") -> None:
    """Mark the graph in ``uns[key]`` as written by muport. A later ``sc.pp.neighbors`` replaces the mark, too."""
    data.uns[key] = {**data.uns[key], _MARK: _checksum(data, key)}


def is_own_graph(data: anndata.AnnData | mudata.MuData, key: str = "neighbors") -> bool:
    """Return whether muport wrote the graph in ``uns[key]``, and nothing in it was changed since."""
    graph = data.uns.get(key)
    return isinstance(graph, dict) and _MARK in graph and str(graph[_MARK]) == _checksum(data, key)


def _checksum(data: anndata.AnnData | mudata.MuData, key: str) -> str:
    """Return a checksum of the matrices of a graph; empty if one of them is missing."""
    total = 0
    for name in ("distances", "connectivities"):
        entry = data.uns[key].get(f"{name}_key", name)
        if entry not in data.obsp:
            return ""
        matrix: Any = sparse.csr_matrix(data.obsp[entry])
        # a file may hold the same integers in another type
        for values in (matrix.data.astype(np.float32), matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)):
            total = zlib.crc32(np.ascontiguousarray(values).tobytes(), total)
    return f"{total:08x}"
