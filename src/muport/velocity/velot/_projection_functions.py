"""Velocities in a picture, as functions of an AnnData or MuData under the names of VelOT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.velocity.dynamics._embedding_projection import project

if TYPE_CHECKING:
    import anndata
    import mudata

    type Data = anndata.AnnData | mudata.MuData

__all__ = ["holder", "project_to_embedding", "project_to_umap"]


def holder(data: Data, modality: str | None) -> Data:
    """The object whose ``obsm`` holds the cells: `data`, or one of its modalities."""
    if modality is None:
        return data
    mods = getattr(data, "mod", {})
    if modality not in mods:
        raise KeyError(f"modality={modality!r} is not there; there are {list(mods)}.")
    chosen: anndata.AnnData = mods[modality]
    return chosen


def project_to_embedding(
    adata: Data,
    velocity_key: str = "velot_velocity_pca",
    velocity_key_umap: str = "velot_velocity_umap",
    basis_pca: str = "X_pca",
    basis_embedding: str = "X_umap",
    n_neighbors: int = 30,
    *,
    modality: str | None = None,
) -> Data:
    """Carry velocities into a picture, such as UMAP, for drawing only.

    Parameters
    ----------
    adata
        Cells with velocities.
    velocity_key
        Key of ``obsm`` with the velocities in the basis.
    velocity_key_umap
        Key of ``obsm`` under which those in the picture are written.
    basis_pca
        Key of ``obsm`` with the basis.
    basis_embedding
        Key of ``obsm`` with the picture.
    n_neighbors
        Neighbours from which the map between the two is read.
    modality
        For a MuData: the modality that holds the cells.

    Returns
    -------
    `adata`, in which ``obsm[velocity_key_umap]`` is written.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If shapes do not fit.
    """
    at = holder(adata, modality)
    for name, key in (("velocity_key", velocity_key), ("basis_pca", basis_pca), ("basis_embedding", basis_embedding)):
        if key not in at.obsm:
            raise KeyError(f"{name}={key!r} is not in obsm; there are {sorted(at.obsm.keys())}.")
    at.obsm[velocity_key_umap] = project(
        at.obsm[basis_pca], at.obsm[velocity_key], np.asarray(at.obsm[basis_embedding]), n_neighbors=n_neighbors
    )
    return adata


def project_to_umap(
    adata: Data,
    velocity_key: str = "velot_velocity_pca",
    velocity_key_umap: str = "velot_velocity_umap",
    basis_pca: str = "X_pca",
    basis_umap: str = "X_umap",
    n_neighbors: int = 30,
    *,
    modality: str | None = None,
) -> Data:
    """Carry velocities into a UMAP: :func:`project_to_embedding` with `basis_umap` as the picture.

    Parameters
    ----------
    adata, velocity_key, velocity_key_umap, basis_pca, n_neighbors, modality
        As for :func:`project_to_embedding`.
    basis_umap
        Key of ``obsm`` with the UMAP.

    Returns
    -------
    `adata`, in which ``obsm[velocity_key_umap]`` is written.
    """
    return project_to_embedding(
        adata, velocity_key, velocity_key_umap, basis_pca, basis_umap, n_neighbors, modality=modality
    )
