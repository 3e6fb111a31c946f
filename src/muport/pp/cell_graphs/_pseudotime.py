"""Diffusion pseudotime from a reproducible root cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mudata
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from muport._arrays import canonical_order
from muport._checks import check_integers, check_keys, check_seed
from muport._parallel import single_threaded
from muport.data import Setup, accept_data_names, check_writable, is_joint, read_rows
from muport.neighbors._fuzzy_graph import fuzzy_graph
from muport.pp._counts import get_modality
from muport.pp.cell_graphs._root_cell import Root, find_root, read_root

if TYPE_CHECKING:
    import anndata
    import pandas as pd
    from numpy.typing import NDArray

#: Number of cells up to which all eigenvectors are computed.
_ALL_EIGENVECTORS_UP_TO = 500
#: Above it, this many leading eigenvectors are exact, and the sum over the others is estimated from this many random
#: vectors. Their share of a distance is about 1 %, so that an error of 18 % of it does not matter.
_N_LEADING, _N_RANDOM = 30, 32
#: Relative error at which the equations of the other eigenvectors count as solved.
_TOLERANCE = 1e-3


@accept_data_names
def pseudotime(
    data: anndata.AnnData | mudata.MuData,
    root_cluster: str | None = None,
    root_cell: str | int | None = None,
    root_marker: str | None = None,
    *,
    labels_key: str = "clusters",
    use_rep: str = "X_pca",
    key_added: str = "pseudotime",
    n_neighbors: int = 30,
    random_state: int = 0,
    modality: str = "rna",
) -> None:
    r"""Compute the diffusion pseudotime of cells from a root, on the graph of scanpy's ``neighbors``.

    The pseudotime is the diffusion distance from the root, with the transition matrix of scanpy: with its eigenvalues
    :math:`1 = \lambda_0 > \lambda_1 \ge \dots` and eigenvectors :math:`\psi_l`,

    .. math:: d(r, x)^2 = \sum_{l \ge 1} \Bigl(\frac{\lambda_l}{1 - \lambda_l}\Bigr)^2 (\psi_l(r) - \psi_l(x))^2 .

    Above 500 cells, the 30 largest terms are exact and the sum of the others is estimated. ``scanpy.tl.dpt`` gives the
    same order, except on long paths, where it leaves out the slowest components. The time grows with the number of
    cells times the square root of the length of the path in neighborhoods; the memory is 2 kB a cell and the graph.

    Exactly one of `root_cluster`, `root_cell` and `root_marker` must be given. The graph is computed from `use_rep` on
    a copy. Neighbors, diffusion maps and roots in `data` are neither used nor changed.

    Parameters
    ----------
    data
        AnnData or MuData.
    root_cluster
        Category of `labels_key` in which the process begins. The root is the cell of the cluster's core that is
        farthest, in diffusion distance, from the mean of the cells outside the cluster. The core is the half of the
        cluster whose neighborhoods have the largest fraction of cells of the cluster; coordinates are averaged over
        neighborhoods.
    root_cell
        Name of the root cell, or its position.
    root_marker
        Feature with its highest level where the process begins. The root is the cell with the highest mean of ``X``
        over its neighborhood. ``X`` should hold normalized values.
    labels_key
        Column of ``obs`` with the cluster of each cell; used with `root_cluster`.
    use_rep
        Key of ``obsm`` with the representation. In a MuData, a key of ``mdata.obsm``, or else of `modality`.
    key_added
        Column of ``obs`` to write, in `data` or in the modality whose representation is used.
    n_neighbors
        Number of neighbors in the graph; fewer if there are fewer cells.
    random_state
        Seed of the neighbor search and the eigenvectors.
    modality
        Modality of a MuData.

    Returns
    -------
    None. Writes ``obs[key_added]`` (float64, 0 at the root and 1 at the farthest cell), and the name of the root cell
    to ``uns[f"{key_added}_root"]``.

    Raises
    ------
    KeyError
        If the representation, the column, the cell or the marker does not exist.
    ValueError
        If not exactly one root is given, the graph of the cells has several pieces, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> line = np.linspace(0, 9, 60)[:, None] * np.ones(3)
    >>> adata = anndata.AnnData(line, obsm={"X_pca": line})
    >>> adata.obs["clusters"] = np.repeat(["early", "late"], 30)
    >>> muport.pp.pseudotime(adata, root_cluster="early", n_neighbors=10)
    >>> adata.obs.groupby("clusters")["pseudotime"].mean().idxmin()
    'early'

    References
    ----------
    Haghverdi et al. (2016), Diffusion pseudotime robustly reconstructs lineage branching.
    """
    check_integers(2, n_neighbors=n_neighbors)
    check_seed(random_state)
    check_keys(key_added=key_added)
    check_writable(data)
    in_modality = isinstance(data, mudata.MuData) and not is_joint(data, use_rep)
    holder = get_modality(data, modality) if in_modality else data
    root = read_root(data, holder, labels_key, modality, cluster=root_cluster, cell=root_cell, marker=root_marker)
    x = read_rows(holder, Setup(use_rep, batch_key=None)).x
    values, position = diffusion_time(x, root, holder.obs_names, n_neighbors, random_state)
    holder.obs[key_added] = values
    holder.uns[f"{key_added}_root"] = str(holder.obs_names[position])


def diffusion_time(
    x: NDArray[np.float32],
    root: Root,
    obs_names: pd.Index,
    n_neighbors: int,
    random_state: int,
    connectivities: sparse.csr_matrix | None = None,
) -> tuple[NDArray[np.float64], int]:
    """Return the pseudotime from 0 to 1 of a representation (n_cells, d), and the position of the root: (n_cells,).

    - `connectivities`: Those of the graph of `x`, if it was computed already.
    """
    if len(x) < 4:
        raise ValueError(f"the data have {len(x)} cells: a pseudotime needs at least 4.")
    if not np.ptp(x, axis=0).any():
        raise ValueError("all cells have the same coordinates: the representation defines no order.")
    if connectivities is None:
        connectivities = fuzzy_graph(x, min(n_neighbors, len(x) - 1), random_state).connectivities
    graph = sparse.csr_array(connectivities, dtype=np.float64)
    _check_connected(graph, obs_names, n_neighbors)
    with single_threaded():
        coordinates = diffusion_coordinates(graph, canonical_order(x), random_state)
        position = find_root(root, coordinates, graph)
        values = np.linalg.norm(coordinates - coordinates[position], axis=1)
    return values / values.max(), position


def _check_connected(graph: sparse.csr_array, obs_names: pd.Index, n_neighbors: int) -> None:
    n_pieces, piece = connected_components(graph, directed=False)
    if n_pieces > 1:
        sizes = np.bincount(piece)
        outside = np.flatnonzero(piece != sizes.argmax())
        raise ValueError(
            f"{len(outside)} of {len(piece)} cells are not connected with the others, for example "
            f"{obs_names[int(outside[0])]!r}: the graph has {n_pieces} pieces, of "
            f"{', '.join(map(str, sorted(sizes, reverse=True)[:5]))}{' ...' if n_pieces > 5 else ''} cells. Raise "
            f"n_neighbors={n_neighbors}, or compute the pseudotime of each piece alone."
        )


def diffusion_coordinates(graph: sparse.csr_array, order: NDArray[np.int64], random_state: int) -> NDArray[np.float64]:
    """Return coordinates (n_cells, k) whose Euclidean distance is the diffusion distance; see :func:`pseudotime`.

    - `graph`: (n_cells, n_cells) symmetric connectivities, of one piece.
    - `order`: (n_cells,) cells in an order that does not depend on that of the input; random numbers are drawn in it.
    """
    transitions = _transition_matrix(graph)
    n = transitions.shape[0]
    if n <= _ALL_EIGENVECTORS_UP_TO:
        values, vectors = np.linalg.eigh(transitions.toarray())
        return np.asarray(vectors[:, :-1] * (values[:-1] / (1 - values[:-1])))
    rng = np.random.default_rng(random_state)
    values, vectors = eigsh(transitions, _N_LEADING + 1, which="LA", v0=rng.normal(size=n))
    leading = vectors[:, :-1] * (values[:-1] / (1 - values[:-1]))
    random = np.empty((n, _N_RANDOM))
    random[order] = rng.choice([-1.0, 1.0], size=random.shape)
    # with the leading eigenvectors removed, the squared differences of T (I - T)^-1 z have the missing sum as mean
    random -= vectors @ (vectors.T @ random)
    others = _invert(transitions, random) - random
    return np.hstack([leading, others / np.sqrt(_N_RANDOM)])


def _transition_matrix(graph: sparse.csr_array) -> sparse.csr_array:
    """Return the symmetric transition matrix T of scanpy, in which the density of cells is divided out."""
    density = sparse.diags_array(1 / graph.sum(axis=0))
    kernel = density @ graph @ density
    root = sparse.diags_array(1 / np.sqrt(kernel.sum(axis=0)))
    return sparse.csr_array(root @ kernel @ root)


def _invert(transitions: sparse.csr_array, b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve (I - T) u = b for the columns of b (n, k) by conjugate gradients."""
    u, residual, direction = np.zeros_like(b), b.copy(), b.copy()
    square = first = np.square(residual).sum(axis=0)
    while (square > _TOLERANCE**2 * first).any():
        product = direction - transitions @ direction
        step = square / np.maximum((direction * product).sum(axis=0), np.finfo(np.float64).tiny)
        u += step * direction
        residual -= step * product
        last, square = square, np.square(residual).sum(axis=0)
        direction = residual + square / np.maximum(last, np.finfo(np.float64).tiny) * direction
    return u
