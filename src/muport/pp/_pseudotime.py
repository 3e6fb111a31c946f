"""Diffusion pseudotime from a reproducible root cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._checks import check_integers, check_seed
from muport.data import Setup, is_joint, read_rows
from muport.pp._counts import check_writable, get_modality, preserve_numpy_state
from muport.pp._root_cell import Root, find_root, read_root

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

#: Number of diffusion components including the first, constant one: the default of scanpy's ``dpt``.
_N_COMPS = 10
#: scanpy does not scale a component with an eigenvalue above this one, which it counts as stationary.
_STATIONARY_EIGENVALUE = 0.9994


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
    """Compute the diffusion pseudotime of cells from a root, with scanpy's ``neighbors``, ``diffmap`` and ``dpt``.

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
        If not exactly one root is given, cells are not connected to it, or `data` is a view.

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
    check_writable(data)
    in_modality = isinstance(data, mudata.MuData) and not is_joint(data, use_rep)
    holder = get_modality(data, modality) if in_modality else data
    root = read_root(data, holder, labels_key, modality, cluster=root_cluster, cell=root_cell, marker=root_marker)
    x = read_rows(holder, Setup(use_rep, batch_key=None)).x
    values, position = diffusion_time(x, root, holder.obs_names, n_neighbors, random_state)
    holder.obs[key_added] = values
    holder.uns[f"{key_added}_root"] = str(holder.obs_names[position])


def diffusion_time(
    x: NDArray[np.float32], root: Root, obs_names: pd.Index, n_neighbors: int, random_state: int
) -> tuple[NDArray[np.float64], int]:
    """Return the pseudotime from 0 to 1 of a representation (n_cells, d), and the position of the root: (n_cells,)."""
    import anndata
    import scanpy as sc

    n_cells = len(x)
    if n_cells < 4:
        raise ValueError(f"the data have {n_cells} cells: a pseudotime needs at least 4.")
    representation: Any = x
    work: Any = anndata.AnnData(obs=pd.DataFrame(index=obs_names), obsm={"rep": representation})
    with preserve_numpy_state():
        sc.pp.neighbors(work, min(n_neighbors, n_cells - 1), use_rep="rep", random_state=random_state)
        sc.tl.diffmap(work, min(_N_COMPS, n_cells - 2), random_state=random_state)
        graph = sparse.csr_array(work.obsp["connectivities"])
        work.uns["iroot"] = position = find_root(root, _diffusion_coordinates(work), graph)
        sc.tl.dpt(work, n_dcs=work.obsm["X_diffmap"].shape[1])
    values = work.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    return _scale_to_unit(values, obs_names, position, n_neighbors), position


def _diffusion_coordinates(work: Any) -> NDArray[np.float64]:
    """Return coordinates with the diffusion distance of dpt: components times lambda / (1 - lambda), (n_cells, k)."""
    eigenvalues = np.asarray(work.uns["diffmap_evals"], dtype=np.float64)
    decaying = eigenvalues < _STATIONARY_EIGENVALUE
    scale = np.where(decaying, eigenvalues / np.where(decaying, 1 - eigenvalues, 1), 1)
    return np.asarray(work.obsm["X_diffmap"], dtype=np.float64) * scale


def _scale_to_unit(
    values: NDArray[np.float64], obs_names: pd.Index, position: int, n_neighbors: int
) -> NDArray[np.float64]:
    unconnected = ~np.isfinite(values)
    if unconnected.any():
        raise ValueError(
            f"{int(unconnected.sum())} of {len(values)} cells are not connected with the root {obs_names[position]!r}, "
            f"for example {obs_names[int(np.flatnonzero(unconnected)[0])]!r}: raise n_neighbors={n_neighbors}, or "
            "remove these cells."
        )
    span = values.max() - values.min()
    if not span > 0:
        raise ValueError("all cells have the same coordinates: the representation defines no order.")
    return (values - values.min()) / span
