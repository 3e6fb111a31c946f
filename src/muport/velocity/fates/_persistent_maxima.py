"""Local maxima of a function on a graph that stand out from the paths between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

__all__ = ["persistent_maxima"]


def persistent_maxima(values: NDArray[np.float64], graph: sp.csr_matrix, persistence: float) -> NDArray[np.int64]:
    """(n,) position of the maximum that each node belongs to.

    The persistence of a maximum is the drop of the values on the best path to a higher one (Edelsbrunner et al., 2002);
    maxima below `persistence` are merged with that one. Each component of the graph has at least one maximum.

    - `values`: (n,) values of the nodes.
    - `graph`: (n, n) symmetric; its non-zero entries are the edges.
    """
    parent = np.full(len(values), -1, np.int64)

    def root_of(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    # Nodes are added from the highest to the lowest. A root is the maximum of its component so far.
    for node in np.argsort(-values, kind="stable"):
        neighbors = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
        roots = {root_of(int(other)) for other in neighbors if parent[other] >= 0}
        parent[node] = node
        if not roots:
            continue
        highest = max(roots, key=lambda root: (values[root], -root))
        parent[node] = highest
        for root in roots - {highest}:
            if values[root] - values[node] < persistence:
                parent[root] = highest
    return np.array([root_of(node) for node in range(len(values))], dtype=np.int64)
