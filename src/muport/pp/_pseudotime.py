"""Diffusion pseudotime from a root that is always the same."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.data import Setup, is_joint, read_rows
from muport.pp._root_cell import Root, find_root, read_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata
    from numpy.typing import NDArray

#: Diffusion components, of which the first is constant: the number that scanpy's ``dpt`` takes by default.
_N_COMPONENTS = 10
#: Above this eigenvalue scanpy counts a component as stationary and leaves it unscaled.
_STATIONARY = 0.9994


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
    """Order cells by diffusion pseudotime from a root, with scanpy's ``neighbors``, ``diffmap`` and ``dpt``.

    Exactly one root is named. The graph is computed anew from `use_rep`, on a copy: nothing of the user's neighbours,
    diffusion maps or roots is used or changed, so the result depends on the arguments alone.

    Parameters
    ----------
    data
        AnnData or MuData.
    root_cluster
        Category of `labels_key` in which the process begins. The root is the cell of that cluster's core (the half of
        its cells with most of the cluster around them) that is farthest, in diffusion distance, from the mean of the
        cells outside, where each cell stands for the mean of its neighbourhood.
    root_cell
        Name of the root cell, or its position.
    root_marker
        Feature that is highest where the process begins. The root is the cell with the highest mean of ``X`` over its
        neighbourhood; ``X`` should hold normalised values.
    labels_key
        Column with the cluster of each cell; used with `root_cluster`.
    use_rep
        ``obsm`` key of the representation. In a MuData, a key of ``mdata.obsm`` (a joint space), or else of `modality`.
    key_added
        Column of ``obs`` that is written: of `data`, or of the modality whose representation is used.
    n_neighbors
        Neighbours of a cell in the graph; fewer if there are fewer cells.
    random_state
        Seed of the neighbour search and the eigenvectors.
    modality
        Modality of a MuData.

    Returns
    -------
    None. Writes ``obs[key_added]``, float64, 0 at the root and 1 at the farthest cell, and the name of the root cell in
    ``uns[f"{key_added}_root"]``.

    Raises
    ------
    KeyError
        If the representation, column, cell or marker is not there.
    ValueError
        If not exactly one root is named, cells are not connected with it, or `data` is a view.

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
    check_arguments(data, n_neighbors=n_neighbors, random_state=random_state)
    holder = _holder(data, use_rep, modality)
    root = read_root(data, holder, labels_key, modality, cluster=root_cluster, cell=root_cell, marker=root_marker)
    x = read_rows(holder, Setup(use_rep, batch_key=None)).x
    values, position = diffusion_time(x, root, holder.obs_names, n_neighbors, random_state)
    holder.obs[key_added] = values
    holder.uns[f"{key_added}_root"] = str(holder.obs_names[position])


def check_arguments(data: anndata.AnnData | mudata.MuData, *, random_state: int, **sizes: int) -> None:
    """Refuse views, and numbers that are none."""
    least = {"n_neighbors": 2, "random_state": 0}
    for name, value in {**sizes, "random_state": random_state}.items():
        bound = least.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < bound:
            raise ValueError(f"{name}={value!r} must be an integer of at least {bound}.")
    if getattr(data, "is_view", False):
        raise ValueError(f"data is a view, which cannot be written to: pass {type(data).__name__.lower()}.copy().")


def modality_of(data: mudata.MuData, modality: str) -> anndata.AnnData:
    """Return a modality by name."""
    if modality not in data.mod:
        raise KeyError(f"modality={modality!r} is not in the data, which has {list(data.mod)}.")
    found: anndata.AnnData = data.mod[modality]
    return found


def _holder(data: anndata.AnnData | mudata.MuData, use_rep: str, modality: str) -> anndata.AnnData | mudata.MuData:
    if not isinstance(data, mudata.MuData) or is_joint(data, use_rep):
        return data
    return modality_of(data, modality)


def diffusion_time(
    x: NDArray[np.float32], root: Root, obs_names: pd.Index, n_neighbors: int, random_state: int
) -> tuple[NDArray[np.float64], int]:
    """Return the (n_cells,) pseudotime in 0..1 of a representation, and the position of its root."""
    import anndata
    import scanpy as sc

    n_cells = len(x)
    if n_cells < 4:
        raise ValueError(f"the data have {n_cells} cells: a pseudotime needs at least 4.")
    representation: Any = x
    work: Any = anndata.AnnData(obs=pd.DataFrame(index=obs_names), obsm={"rep": representation})
    with unchanged_globals():
        sc.pp.neighbors(work, min(n_neighbors, n_cells - 1), use_rep="rep", random_state=random_state)
        sc.tl.diffmap(work, min(_N_COMPONENTS, n_cells - 2), random_state=random_state)
        graph = sparse.csr_array(work.obsp["connectivities"])
        work.uns["iroot"] = position = find_root(root, _scaled(work), graph)
        sc.tl.dpt(work, n_dcs=work.obsm["X_diffmap"].shape[1])
    values = work.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    return _checked(values, obs_names, position, n_neighbors), position


def _scaled(work: Any) -> NDArray[np.float64]:
    """(n_cells, k) coordinates whose Euclidean distance is dpt: components times lambda / (1 - lambda)."""
    values = np.asarray(work.uns["diffmap_evals"], dtype=np.float64)
    moving = values < _STATIONARY
    scale = np.where(moving, values / np.where(moving, 1 - values, 1), 1)
    return np.asarray(work.obsm["X_diffmap"], dtype=np.float64) * scale


def _checked(values: NDArray[np.float64], obs_names: pd.Index, position: int, n_neighbors: int) -> NDArray[np.float64]:
    lost = ~np.isfinite(values)
    if lost.any():
        raise ValueError(
            f"{int(lost.sum())} of {len(values)} cells are not connected with the root {obs_names[position]!r}, for "
            f"example {obs_names[int(np.flatnonzero(lost)[0])]!r}: raise n_neighbors={n_neighbors}, or leave these "
            "cells out."
        )
    span = values.max() - values.min()
    if not span > 0:
        raise ValueError("all cells are in one place: the representation tells no order.")
    return (values - values.min()) / span


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Give NumPy's global generator and print options back as they were: scanpy sets both."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with np.printoptions():
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
