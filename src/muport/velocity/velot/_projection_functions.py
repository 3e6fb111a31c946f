"""Velocities in an embedding, as functions of an AnnData or MuData under the names of VelOT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muport.data import accept_data_names
from muport.velocity.dynamics._embedding_projection import project_velocity
from muport.velocity.velot._stored_results import in_modality, read_matrix

if TYPE_CHECKING:
    from muport.velocity.velot._stored_results import Data

__all__ = ["project_to_embedding", "project_to_umap"]


@accept_data_names
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
    """Project velocities into an embedding, such as UMAP, for plots only.

    Parameters
    ----------
    adata
        Cells with velocities.
    velocity_key, basis_pca, basis_embedding
        Keys of ``obsm`` with the velocities in the basis, with the basis, and with the embedding.
    velocity_key_umap
        Key of ``obsm`` under which the velocities in the embedding are written.
    n_neighbors
        Number of neighbors from which the map between the two spaces is estimated.
    modality
        As for :func:`build_windows`.

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
    data = in_modality(adata, modality)
    v = read_matrix(data, velocity_key, "velocity_key")
    x, embedding = read_matrix(data, basis_pca, "basis_pca"), read_matrix(data, basis_embedding, "basis_embedding")
    data.obsm[velocity_key_umap] = project_velocity(x, v, embedding, n_neighbors=n_neighbors)
    return adata


@accept_data_names
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
    """Project velocities into a UMAP: :func:`project_to_embedding` with `basis_umap` as the embedding.

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
