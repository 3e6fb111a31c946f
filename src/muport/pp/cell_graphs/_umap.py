"""A UMAP that new cells enter, by umap-learn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd

from muport._arrays import canonical_order, describe_fields
from muport._checks import check_integers, check_keys, check_numbers, check_seed
from muport._global_state import preserve_generators
from muport._parallel import single_threaded
from muport.data import Representation, accept_data_names, check_writable
from muport.neighbors import as_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    type Data = anndata.AnnData | mudata.MuData

__all__ = ["FittedUMAP", "umap"]


@dataclass(frozen=True, eq=False)
class FittedUMAP:
    """A fitted UMAP: :meth:`transform` gives new cells coordinates in it.

    It is not saved: umap-learn has no file format but pickle, which runs code. Call :func:`muport.pp.umap` again on the
    cells of the fit. The same cells and seed give the same UMAP.

    Attributes
    ----------
    use_rep
        Key of ``obsm`` with the coordinates of which it is the UMAP.
    key_added
        Key of ``obsm`` to which the UMAP is written.
    embedding
        (n_fitted, n_components) coordinates of the cells of the fit, in their order.
    n_coordinates
        Number of coordinates of a cell before the UMAP.
    model
        The fitted ``umap.UMAP``. Its cells are in an order that does not depend on that of the data.
    """

    use_rep: str
    key_added: str
    embedding: NDArray[np.float32]
    n_coordinates: int
    model: Any

    __repr__ = describe_fields

    def transform(self, data: Data | ArrayLike) -> NDArray[np.float32]:
        """Return the coordinates of new cells in the UMAP, which does not change.

        Each cell is placed among its neighbors in the fit, then moved by the steps of umap-learn. The fitted cells
        stay, and get the coordinates that they have if all are passed. The coordinates of a new cell vary slightly with
        the cells that are passed with it, because umap-learn scales its steps by the strongest neighbors of all.

        Parameters
        ----------
        data
            AnnData or MuData with ``obsm[use_rep]``, for example after :meth:`muport.Integration.write`; or the
            coordinates themselves, (n_obs, d), for example from :meth:`muport.Integration.map_query`.

        Returns
        -------
        (n_obs, n_components) float32. For an AnnData or MuData, they are also written to ``obsm[key_added]``.

        Raises
        ------
        KeyError
            If `data` have no ``obsm[use_rep]``.
        ValueError
            If the coordinates are not finite or of another number than those of the fit, or `data` is a view.
        """
        holder = data if isinstance(data, anndata.AnnData | mudata.MuData) else None
        x = _read_points(data) if holder is None else _read_representation(holder, self.use_rep, new_cells=True)
        if x.shape[1] != self.n_coordinates:
            raise ValueError(
                f"the cells have {x.shape[1]} coordinates, but the UMAP was fitted to {self.n_coordinates}."
            )
        embedding = _in_canonical_order(self.model.transform, x)
        if holder is not None:
            holder.obsm[self.key_added] = embedding
        return embedding


@accept_data_names
def umap(
    data: Data,
    use_rep: str = "X_muport",
    n_neighbors: int = 15,
    min_dist: float = 0.5,
    *,
    n_components: int = 2,
    random_state: int = 0,
    key_added: str = "X_umap",
) -> FittedUMAP:
    """Compute a UMAP that new cells can enter later, by umap-learn.

    ``sc.tl.umap`` draws the same kind of picture from a neighbor graph, but new cells cannot enter it. Here the fit is
    returned, and its ``transform`` gives new cells their coordinates. With a seed, umap-learn uses one core: 5,000
    cells take about 6 seconds. The first call in a process also compiles the code of umap-learn, for about 20 seconds,
    and as long again above 4,096 cells; so does the first ``transform``, for 5 to 15 seconds.

    Parameters
    ----------
    data
        AnnData, or MuData with the representation in its own ``obsm``. To use that of a modality, pass the modality.
    use_rep
        Key of ``obsm`` with the representation, for example that of :meth:`muport.Integration.write`.
    n_neighbors
        Number of neighbors of a cell, itself included; at least 2, and fewer than there are cells.
    min_dist
        Smallest distance of two cells in the UMAP, 0..1.
    n_components
        Number of coordinates in the UMAP.
    random_state
        Seed; the same seed gives the same UMAP, whatever the order of the cells.
    key_added
        Key of ``obsm`` to write; one that exists is replaced, as by ``sc.tl.umap``.

    Returns
    -------
    The fitted UMAP. Writes ``obsm[key_added]``, (n_obs, n_components) float32.

    Raises
    ------
    KeyError
        If the representation does not exist.
    ValueError
        If a number is out of range, `key_added` is `use_rep`, there are too few cells, or `data` is a view.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> early, late = adata[:600].copy(), adata[600:].copy()
    >>> fitted = muport.pp.umap(early, use_rep="X_pca")
    >>> fitted.transform(late).shape
    (100, 2)

    References
    ----------
    McInnes, Healy and Melville (2018), UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction.
    """
    check_integers(2, n_neighbors=n_neighbors)
    check_integers(1, n_components=n_components)
    check_numbers(0, 1, min_dist=min_dist)
    check_seed(random_state)
    check_keys(key_added=key_added)
    if key_added == use_rep:
        raise ValueError(f"key_added={key_added!r} is use_rep, which would be lost: choose another name.")
    x = _read_representation(data, use_rep)
    if len(x) <= max(n_neighbors, n_components + 1):
        raise ValueError(f"the data have {len(x)} cells: n_neighbors={n_neighbors} needs more.")
    model = _import_umap()(
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        n_components=n_components,
        random_state=random_state,
        transform_seed=random_state,
        n_jobs=1,
    )
    embedding = _in_canonical_order(model.fit_transform, x)
    data.obsm[key_added] = embedding
    return FittedUMAP(use_rep, key_added, embedding, x.shape[1], model)


def _import_umap() -> Any:
    with warnings.catch_warnings():
        # umap-learn warns that it has no tensorflow
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    return UMAP


def _read_points(data: Any) -> NDArray[np.float32]:
    """Return checked coordinates (n_obs, d) of new cells without an object."""
    points = as_points(data, "data")
    return Representation(points, "data", pd.RangeIndex(len(points)), new_cells=True).read()


def _read_representation(data: Data, use_rep: str, new_cells: bool = False) -> NDArray[np.float32]:
    """Return the checked coordinates (n_obs, d) of the cells of an object that can be written to."""
    if not isinstance(data, anndata.AnnData | mudata.MuData):
        raise TypeError(f"data is a {type(data).__name__}, expected AnnData or MuData.")
    check_writable(data)
    modalities = getattr(data, "mod", {})
    if use_rep not in data.obsm or use_rep in modalities:
        held = sorted(key for key in data.obsm if key not in modalities)
        hint = "; to use that of a modality, pass the modality, mdata[modality]" if modalities else ""
        raise KeyError(f"use_rep={use_rep!r} is not in obsm, which has {held}: compute it first{hint}.")
    if data.n_obs == 0:
        raise ValueError("data has no cells.")
    values = Representation(data.obsm[use_rep], f"obsm[{use_rep!r}]", data.obs_names, new_cells=new_cells)
    values.check_rows()
    return values.read()


def _in_canonical_order(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply a function of umap-learn to the cells in an order that does not depend on that of the data."""
    order = canonical_order(x)
    with preserve_generators(), single_threaded():
        sorted_embedding = function(x[order])
    embedding = np.empty((len(x), sorted_embedding.shape[1]), np.float32)
    embedding[order] = sorted_embedding
    return embedding
