"""TF-IDF and latent semantic indexing through muon, kept such that new cells can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from muport.pp._counts import (
    blocks,
    check_integers,
    check_numbers,
    counts_of,
    logger,
    matrix_of,
    n_detected,
    part_of,
    warn_of_empty,
)
from muport.pp._pseudotime import unchanged_globals

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

#: The defaults of muon's TF-IDF.
SCALE_FACTOR = 1e4


def tfidf(
    data: anndata.AnnData | mudata.MuData,
    *,
    log_tf: bool = True,
    log_idf: bool = True,
    log_tfidf: bool = False,
    scale_factor: float = SCALE_FACTOR,
    layer: str | None = None,
    to_layer: str | None = None,
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    r"""Weigh peak counts by TF-IDF, with ``muon.atac.pp.tfidf``, and keep the weights for new cells.

    With counts c of cell i and peak j among n cells, and the defaults,

    .. math:: t_{ij} = \log\Bigl(1 + 10^4 \frac{c_{ij}}{\sum_l c_{il}}\Bigr)
              \log\Bigl(1 + \frac{n}{\sum_k c_{kj}}\Bigr).

    The result is muon's, sparse. Memory: about four times that of the counts while muon computes.

    Parameters
    ----------
    data
        AnnData of peak counts, or MuData with such a `modality`.
    log_tf, log_idf
        Take the logarithm of the first and of the second factor.
    log_tfidf
        Take the logarithm of the product; then neither of the other two.
    scale_factor
        Counts that a cell has after division by its depth.
    layer
        Layer of the counts. None: ``X``.
    to_layer
        Layer that is written. None: ``X``, and the counts go to ``layers["counts"]`` (unless that is there already).
    modality
        Modality of a MuData.
    copy
        Return a changed copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes the values, ``var["idf"]``, and the arguments in ``uns["tfidf"]``.

    Raises
    ------
    KeyError
        If the modality or the layer is not there.
    ValueError
        If values are no counts, the logarithms contradict each other, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> counts = np.random.default_rng(0).poisson(0.5, (30, 20)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> muport.pp.tfidf(adata)
    >>> adata.X.shape, adata.var["idf"].shape, list(adata.layers)
    ((30, 20), (20,), ['counts'])
    """
    if log_tfidf and (log_tf or log_idf):
        raise ValueError("log_tfidf=True needs log_tf=False and log_idf=False: the logarithm is taken once.")
    check_numbers(scale_factor=(scale_factor, 1e-12, 1e12))
    data = data.copy() if copy else data
    part = part_of(data, modality)
    counts = counts_of(part, layer)
    settings = {"log_tf": log_tf, "log_idf": log_idf, "log_tfidf": log_tfidf, "scale_factor": float(scale_factor)}
    idf, n_features = _idf(counts, log_idf)
    warn_of_empty(n_features, part.obs_names, modality if isinstance(data, mudata.MuData) else "the data")
    values = _by_muon(counts, settings)
    if to_layer is None:
        if layer is None and "counts" not in part.layers:
            part.layers["counts"] = part.X
        part.X = values
    else:
        part.layers[to_layer] = values
    part.var["idf"] = idf
    part.uns["tfidf"] = settings
    return data if copy else None


def _by_muon(counts: Any, settings: dict[str, Any]) -> Any:
    import muon

    work = anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    # a cell without counts, or a peak without cells, is 1/0 in muon, and then multiplies nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        values = muon.atac.pp.tfidf(work, inplace=False, **settings)
    return sparse.csr_matrix(values)


def _idf(counts: Any, log: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Weight of every feature, 0 where it has no cells; and the number of features of every cell."""
    total, n_features = np.zeros(counts.shape[1]), []
    for _, block in blocks(counts):
        total += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        n_features.append(np.asarray((block != 0).sum(axis=1)).ravel())
    return inverse_frequency(total, counts.shape[0], log), np.concatenate(n_features)


def inverse_frequency(total: NDArray[np.float64], n: int, log: bool = True) -> NDArray[np.float32]:
    """Cells over counts of a feature, or log(1 + that); 0 for a feature without counts."""
    idf = np.divide(n, total, out=np.zeros(len(total)), where=total > 0)
    return (np.log1p(idf) if log else idf).astype(np.float32)


def weigh(block: sparse.csr_matrix, idf: NDArray[np.float32], settings: dict[str, Any]) -> sparse.csr_matrix:
    """TF-IDF of a few cells by given weights: the formula of muon. Changes `block`."""
    depth = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    rate = np.divide(settings["scale_factor"], depth, out=np.zeros(len(depth)), where=depth > 0).astype(np.float32)
    block.data *= np.repeat(rate, np.diff(block.indptr))
    if settings["log_tf"]:
        np.log1p(block.data, out=block.data)
    block.data *= idf[block.indices]
    if settings["log_tfidf"]:
        np.log1p(block.data, out=block.data)
    return block


def lsi(
    data: anndata.AnnData | mudata.MuData,
    *,
    n_comps: int = 50,
    scale_embeddings: bool = True,
    max_depth_correlation: float = 0.75,
    layer: str | None = None,
    random_state: int = 0,
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    """Reduce TF-IDF values by a singular value decomposition, with ``muon.atac.tl.lsi``, and drop what is depth.

    The decomposition is muon's; added are a seed, signs that are always the same (the largest loading of a component is
    positive), and that components which only tell how deeply a cell was sequenced are left out. Such is usually the
    first; but none is dropped unless the absolute rank correlation (Spearman) of its coordinates with the number of
    peaks of a cell exceeds `max_depth_correlation`. Memory: the values and 8 (cells + peaks) `n_comps` bytes or less.

    Parameters
    ----------
    data
        AnnData after :func:`tfidf`, or MuData with such a `modality`.
    n_comps
        Components computed, before any is dropped; fewer if the data have fewer.
    scale_embeddings
        Scale the coordinates of every component to mean 0 and standard deviation 1, as muon does. False: left singular
        vectors.
    max_depth_correlation
        Largest absolute correlation with depth that a component may have. 1: keep all, as muon does.
    layer
        Layer of the TF-IDF values. None: ``X``.
    random_state
        Seed.
    modality
        Modality of a MuData.
    copy
        Return a changed copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes ``obsm["X_lsi"]`` (cells x components, float32), ``varm["LSI"]`` (peaks x components), and
    in ``uns["lsi"]`` ``stdev`` (of the components kept), ``depth_correlation`` (of all), and what
    :func:`project_lsi` needs.

    Raises
    ------
    KeyError
        If the modality or the layer is not there.
    ValueError
        If the values are negative, every component follows depth, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 40)).astype("float32"))
    >>> muport.pp.tfidf(adata)
    >>> muport.pp.lsi(adata, n_comps=5, max_depth_correlation=1)
    >>> adata.obsm["X_lsi"].shape
    (60, 5)
    """
    check_integers(n_comps=n_comps, random_state=random_state)
    check_numbers(max_depth_correlation=(max_depth_correlation, 0, 1))
    data = data.copy() if copy else data
    part = part_of(data, modality)
    values = matrix_of(part, layer)
    depth = n_detected(values)[0]
    u, s, v = _svd_by_muon(values, min(n_comps, min(part.shape) - 1), random_state)
    correlation = depth_correlation(u, depth)
    kept = kept_components(correlation, max_depth_correlation, len(s))
    u, s, v = u[:, kept], s[kept], v[:, kept]
    mean, scale = (u.mean(axis=0), u.std(axis=0)) if scale_embeddings else (np.zeros(len(s)), np.ones(len(s)))
    part.obsm["X_lsi"] = ((u - mean) / scale).astype(np.float32)
    part.varm["LSI"] = v.astype(np.float32)
    part.uns["lsi"] = {
        "stdev": s / np.sqrt(part.n_obs - 1),
        "depth_correlation": correlation,
        "scale": s * scale,
        "offset": mean / scale,
        "unit": False,
        **({"tfidf": dict(part.uns["tfidf"])} if "tfidf" in part.uns else {}),
    }
    return data if copy else None


def _svd_by_muon(values: Any, k: int, random_state: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    import muon

    if sparse.issparse(values) and values.nnz and values.data.min() < 0:
        raise ValueError("the values are negative: LSI is of TF-IDF values; call muport.pp.tfidf on the counts first.")
    work = anndata.AnnData(values.astype(np.float32))
    with unchanged_globals():
        # muon takes its start from NumPy's global generator
        np.random.seed(random_state)  # noqa: NPY002
        muon.atac.tl.lsi(work, scale_embeddings=False, n_comps=k)
    u: NDArray[Any] = np.asarray(work.obsm["X_lsi"], dtype=np.float64)
    v: NDArray[Any] = np.asarray(work.varm["LSI"], dtype=np.float64)
    sign = signs(v)
    return u * sign, np.asarray(work.uns["lsi"]["stdev"], np.float64) * np.sqrt(len(u) - 1), v * sign


def on_sphere(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their length; a row of zeros stays."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return np.divide(z, length, out=np.zeros_like(z), where=length > 0)


def signs(v: NDArray[Any]) -> NDArray[np.float64]:
    """Sign of every column that makes its largest entry positive."""
    largest = v[np.abs(v).argmax(axis=0), np.arange(v.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)


def depth_correlation(z: NDArray[Any], depth: NDArray[Any]) -> NDArray[np.float64]:
    """Spearman correlation of every column with the depth; 0 where either is constant."""
    ranks = rankdata(z, axis=0) - (len(z) + 1) / 2
    own = rankdata(depth) - (len(z) + 1) / 2
    norm = np.sqrt((ranks**2).sum(axis=0) * (own**2).sum())
    correlation: NDArray[np.float64] = np.divide(own @ ranks, norm, out=np.zeros(z.shape[1]), where=norm > 0)
    return correlation


def kept_components(correlation: NDArray[np.float64], most: float, n: int) -> NDArray[np.int64]:
    """The first `n` components that do not follow depth."""
    kept = np.flatnonzero(np.abs(correlation) <= most)[:n]
    if not len(kept):
        raise ValueError(
            f"every component follows the depth of the cells (correlations {np.round(correlation, 2).tolist()}): raise "
            f"max_depth_correlation={most:g}, or n_comps."
        )
    dropped = np.flatnonzero(np.abs(correlation) > most)
    if len(dropped):
        logger.info("LSI: components %s follow depth and are left out.", (dropped + 1).tolist())
    return kept


def project_lsi(
    data: anndata.AnnData | mudata.MuData,
    reference: anndata.AnnData | mudata.MuData,
    *,
    layer: str | None = None,
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    """Place new cells in the space that :func:`lsi` or :func:`iterative_lsi` found for the reference.

    A cell's coordinates depend on its counts and the reference alone. The cells of the reference land where they are.
    Memory: a few thousand cells at a time.

    Parameters
    ----------
    data
        New cells with peak counts: AnnData, or MuData with such a `modality`. Peaks are found by name; those that the
        reference did not use may be absent, and others are ignored.
    reference
        Data with ``obsm["X_lsi"]``, or a MuData with such a `modality`. A few of its cells are enough.
    layer
        Layer of the counts in `data`. None: ``X``.
    modality
        Modality of a MuData.
    copy
        Return a changed copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes ``obsm["X_lsi"]`` (cells x components, float32).

    Raises
    ------
    KeyError
        If the reference has no LSI, or `data` lack peaks that it uses.
    ValueError
        If values are no counts, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 40)).astype("float32"))
    >>> new = adata[:10].copy()
    >>> muport.pp.iterative_lsi(adata, n_comps=5, max_depth_correlation=1)
    >>> muport.pp.project_lsi(new, adata)
    >>> bool(np.allclose(new.obsm["X_lsi"], adata.obsm["X_lsi"][:10], atol=1e-4))
    True
    """
    data = data.copy() if copy else data
    part = part_of(data, modality)
    known = reference.mod[modality] if isinstance(reference, mudata.MuData) else reference
    state = known.uns.get("lsi", {})
    if "LSI" not in known.varm or "tfidf" not in state or "idf" not in known.var:
        raise KeyError("the reference has no LSI of counts: call muport.pp.iterative_lsi, or tfidf and lsi, on it.")
    used = np.flatnonzero(np.any(known.varm["LSI"] != 0, axis=1) | (known.var["idf"].to_numpy() > 0))
    columns = _columns(part.var_names, known.var_names[used])
    idf = known.var["idf"].to_numpy()[used].astype(np.float32)
    loadings = np.asarray(known.varm["LSI"][used], np.float32) / np.asarray(state["scale"], np.float32)
    z = project(counts_of(part, layer, (1, 1)), columns, idf, loadings, state["tfidf"])
    z -= np.asarray(state["offset"], np.float32)
    part.obsm["X_lsi"] = on_sphere(z) if state["unit"] else z
    return data if copy else None


def _columns(names: pd.Index, wanted: pd.Index) -> NDArray[np.int64]:
    columns = np.asarray(names.get_indexer(wanted), dtype=np.int64)
    absent = np.flatnonzero(columns < 0)
    if len(absent):
        raise KeyError(
            f"{len(absent)} of the {len(wanted)} peaks that the reference uses are not in the data, for example "
            f"{wanted[int(absent[0])]!r}: count the new cells on the reference's peaks."
        )
    return columns


def project(
    counts: Any,
    columns: NDArray[np.int64],
    idf: NDArray[np.float32],
    loadings: NDArray[Any],
    settings: dict[str, Any],
) -> NDArray[np.float32]:
    """TF-IDF of the chosen columns (p,) times the loadings (p, k), in blocks of cells: (n, k)."""
    found = np.empty((counts.shape[0], loadings.shape[1]), dtype=np.float32)
    for rows, block in blocks(counts):
        found[rows] = weigh(block[:, columns], idf, settings) @ loadings
    return found
