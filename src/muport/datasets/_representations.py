"""Representations of measured data, the same for all methods in the benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from muport._arrays import sum_repeats
from muport._checks import check_integers, check_seed

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

Kind = Literal["counts", "log", "protein", "peaks", "features"]


def represent(adata: anndata.AnnData, kind: Kind, n_comps: int = 50, n_top: int = 2000, random_state: int = 0) -> None:
    """Add the representation of a modality to ``obsm``; ``X`` is not changed.

    Parameters
    ----------
    adata
        One modality.
    kind
        Values in ``X``. ``"counts"``: normalized by depth, log1p, `n_top` most variable genes, PCA. ``"log"``: PCA of
        the `n_top` most variable genes. ``"protein"``: centered log-ratio, PCA. ``"peaks"``: TF-IDF, truncated SVD
        without its first component. ``"features"``: ``X`` itself. An existing ``obsm["X_pca"]`` is kept.
    n_comps
        Number of components; fewer if the data have fewer.
    n_top
        Number of variable genes.
    random_state
        Seed of the decompositions.

    Raises
    ------
    ValueError
        If `kind` is unknown, or a number is out of range.
    """
    check_integers(n_comps=n_comps, n_top=n_top)
    check_seed(random_state)
    x = sum_repeats(adata.X)
    if kind == "peaks":
        adata.obsm["X_lsi"] = _lsi(x, n_comps, random_state)
    elif "X_pca" in adata.obsm:
        adata.obsm["X_pca"] = np.asarray(adata.obsm["X_pca"], dtype=np.float32)
    elif kind == "features":
        adata.obsm["X_pca"] = np.array(_dense(x))
    elif kind == "protein":
        adata.obsm["X_pca"] = _pca(_centered_log_ratio(x), n_comps, random_state)
    elif kind in ("counts", "log"):
        adata.obsm["X_pca"] = _pca(_select_variable_genes(x, kind == "counts", n_top), n_comps, random_state)
    else:
        raise ValueError(f"kind={kind!r} must be 'counts', 'log', 'protein', 'peaks' or 'features'.")


def _select_variable_genes(x: Any, counts: bool, n_top: int) -> NDArray[np.float32]:
    import anndata
    import scanpy as sc

    adata = anndata.AnnData(x.copy())
    if counts:
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    if adata.n_vars > n_top:
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top)
        adata = adata[:, adata.var["highly_variable"].to_numpy()]
    return _dense(adata.X)


def _centered_log_ratio(x: Any) -> NDArray[np.float32]:
    log = np.log1p(_dense(x))
    return log - log.mean(axis=1, keepdims=True, dtype=np.float32)


def _dense(x: Any) -> NDArray[np.float32]:
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)


def _pca(x: NDArray[np.float32], n_comps: int, random_state: int) -> NDArray[np.float32]:
    from sklearn.decomposition import PCA

    n = min(n_comps, min(x.shape) - 1)
    exact_solver = "covariance_eigh" if x.shape[1] <= x.shape[0] else "full"
    solver = exact_solver if min(x.shape) <= 2000 else "randomized"
    scores: NDArray[np.float32] = PCA(n, svd_solver=solver, random_state=random_state).fit_transform(x)
    return scores.astype(np.float32)


def _lsi(x: Any, n_comps: int, random_state: int) -> NDArray[np.float32]:
    from sklearn.decomposition import TruncatedSVD

    x = sparse.csr_matrix(x, dtype=np.float32)
    depth = np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1)
    n_cells_of_peak = np.maximum(np.asarray((x > 0).sum(axis=0)).ravel(), 1)
    tf_idf = sparse.diags(1e4 / depth) @ x @ sparse.diags(x.shape[0] / n_cells_of_peak)
    tf_idf.data = np.log1p(tf_idf.data)
    n = min(n_comps + 1, min(x.shape) - 1)
    scores = TruncatedSVD(n, random_state=random_state).fit_transform(tf_idf.astype(np.float32))
    # the first component is the depth of the cell, which is technical
    kept: NDArray[np.float32] = scores[:, 1:].astype(np.float32)
    return kept
