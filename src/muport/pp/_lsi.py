"""TF-IDF and latent semantic indexing by muon, and the projection of new cells into the same space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata
from sklearn.utils.extmath import svd_flip

from muport._checks import check_flags, check_integers, check_numbers, check_seed
from muport._global_state import preserve_generators
from muport._schema_version import SCHEMA_VERSION, check_schema_version
from muport.data import accept_data_names
from muport.data.projection._counts_to_coordinates import compute_coordinates
from muport.data.projection._recipe import ProjectionRecipe, store_recipe
from muport.data.reading._count_matrix import get_counts, get_values, iterate_blocks
from muport.pp._counts import count_nonzero, logger, warn_of_empty_cells, writable_modality

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The defaults of muon's TF-IDF.
SCALE_FACTOR = 1e4


@accept_data_names
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
    r"""Weight peak counts by TF-IDF with ``muon.atac.pp.tfidf``, and store the weights for new cells.

    With the defaults, and counts :math:`c_{ij}` of cell i and peak j among n cells,

    .. math:: t_{ij} = \log\Bigl(1 + 10^4 \frac{c_{ij}}{\sum_l c_{il}}\Bigr)
              \log\Bigl(1 + \frac{n}{\sum_k c_{kj}}\Bigr).

    The result is that of muon, sparse. Memory: about four times that of the counts.

    Parameters
    ----------
    data
        AnnData with peak counts, or MuData with such a `modality`.
    log_tf, log_idf
        Whether to take the logarithm of the first and of the second factor.
    log_tfidf
        Whether to take the logarithm of the product; then the other two must be False.
    scale_factor
        Total counts of a cell after depth normalization.
    layer
        Layer with the counts. None: ``X``.
    to_layer
        Layer to write. None: ``X``; the counts are kept in ``layers["counts"]``, unless this layer exists already.
    modality
        Modality of a MuData.
    copy
        Return a copy with the results instead of writing into `data`.

    Returns
    -------
    None, or the copy. Writes the values, ``var["idf"]``, and the arguments to ``uns["tfidf"]``.

    Raises
    ------
    KeyError
        If the modality or the layer does not exist.
    ValueError
        If values are not counts, `log_tfidf` is combined with another logarithm, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> counts = np.random.default_rng(0).poisson(0.5, (30, 20)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> muport.pp.tfidf(adata)
    >>> adata.X.shape, adata.var["idf"].shape, "counts" in adata.layers
    ((30, 20), (20,), True)
    """
    check_flags(log_tf=log_tf, log_idf=log_idf, log_tfidf=log_tfidf)
    if log_tfidf and (log_tf or log_idf):
        raise ValueError("log_tfidf=True needs log_tf=False and log_idf=False: the logarithm is taken once.")
    check_numbers(1e-12, 1e12, scale_factor=scale_factor)
    data = data.copy() if copy else data
    adata = writable_modality(data, modality)
    counts = get_counts(adata, layer)
    settings = {"log_tf": log_tf, "log_idf": log_idf, "log_tfidf": log_tfidf, "scale_factor": float(scale_factor)}
    warn_of_empty_cells(
        count_nonzero(counts)[0], adata.obs_names, modality if isinstance(data, mudata.MuData) else "the data"
    )
    total = sum((np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for _, block in iterate_blocks(counts)),
                start=np.zeros(adata.n_vars))  # fmt: skip
    values = _tfidf_by_muon(counts, settings)
    if to_layer is None:
        if layer is None and "counts" not in adata.layers:
            adata.layers["counts"] = adata.X
        adata.X = values
    else:
        adata.layers[to_layer] = values
    adata.var["idf"] = inverse_document_frequency(total, adata.n_obs, log_idf)
    adata.uns["tfidf"] = settings
    return data if copy else None


def _tfidf_by_muon(counts: Any, settings: dict[str, Any]) -> Any:
    import muon

    work = anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    # muon divides by zero for a cell without counts and a peak without cells; these factors multiply no entry
    with np.errstate(divide="ignore", invalid="ignore"):
        values = muon.atac.pp.tfidf(work, inplace=False, **settings)
    return sparse.csr_matrix(values)


def inverse_document_frequency(total: NDArray[np.float64], n: int, log: bool = True) -> NDArray[np.float32]:
    """Return n / total for each feature, or log(1 + n / total); 0 for a feature without counts."""
    idf = np.divide(n, total, out=np.zeros(len(total)), where=total > 0)
    return (np.log1p(idf) if log else idf).astype(np.float32)


def apply_tfidf[Matrix: (sparse.csr_matrix, sparse.csc_matrix)](
    block: Matrix, idf: NDArray[np.float32], settings: dict[str, Any]
) -> Matrix:
    """Return the TF-IDF values of a block of cells for given weights, by the formula of muon. Changes `block`."""
    depth = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    rate = np.divide(settings["scale_factor"], depth, out=np.zeros(len(depth)), where=depth > 0).astype(np.float32)
    by_row = block.format == "csr"
    block.data *= np.repeat(rate, np.diff(block.indptr)) if by_row else rate[block.indices]
    if settings["log_tf"]:
        np.log1p(block.data, out=block.data)
    block.data *= idf[block.indices] if by_row else np.repeat(idf, np.diff(block.indptr))
    if settings["log_tfidf"]:
        np.log1p(block.data, out=block.data)
    return block


@accept_data_names
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
    """Reduce TF-IDF values by a singular value decomposition with ``muon.atac.tl.lsi``, without depth components.

    The decomposition is that of muon, with a seed and with fixed signs (the largest loading of a component is
    positive). Components that reflect sequencing depth are left out, usually the first one: those whose absolute rank
    correlation (Spearman) with the number of peaks of a cell exceeds `max_depth_correlation`.
    Memory: the values, and at most 8 (cells + peaks) `n_comps` bytes.

    Parameters
    ----------
    data
        AnnData after :func:`tfidf`, or MuData with such a `modality`.
    n_comps
        Number of components to compute before depth components are left out; fewer if the data have fewer.
    scale_embeddings
        Whether to scale each component to mean 0 and standard deviation 1, as muon does. False: left singular vectors.
    max_depth_correlation
        Largest absolute correlation of a component with depth. 1: keep all components, as muon does.
    layer
        Layer with the TF-IDF values. None: ``X``.
    random_state
        Seed.
    modality
        Modality of a MuData.
    copy
        Return a copy with the results instead of writing into `data`.

    Returns
    -------
    None, or the copy. Writes ``obsm["X_lsi"]`` (cells x components, float32), ``varm["LSI"]`` (peaks x components), and
    ``uns["lsi"]`` with ``stdev`` (of the returned components), ``depth_correlation`` (of all components) and the values
    that :func:`project_lsi` needs.

    Raises
    ------
    KeyError
        If the modality or the layer does not exist.
    ValueError
        If values are negative, there are fewer than two cells or peaks, every component correlates with depth, or
        `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 40)).astype("float32"))
    >>> muport.pp.tfidf(adata)
    >>> muport.pp.lsi(adata, n_comps=5, max_depth_correlation=1)
    >>> adata.obsm["X_lsi"].shape
    (60, 5)
    """
    check_integers(n_comps=n_comps)
    check_seed(random_state)
    check_numbers(0, 1, max_depth_correlation=max_depth_correlation)
    data = data.copy() if copy else data
    adata = writable_modality(data, modality)
    check_flags(scale_embeddings=scale_embeddings)
    values = get_values(adata, layer)
    if min(adata.shape) < 2:
        raise ValueError(f"the data have {adata.n_obs} cells and {adata.n_vars} peaks: LSI needs at least 2 of each.")
    depth = count_nonzero(values)[0]
    u, s, v = _svd_by_muon(values, min(n_comps, min(adata.shape) - 1), random_state)
    correlation = depth_correlation(u, depth)
    selected = select_components(correlation, max_depth_correlation, len(s))
    u, s, v = u[:, selected], s[selected], v[:, selected]
    mean, scale = (u.mean(axis=0), u.std(axis=0)) if scale_embeddings else (np.zeros(len(s)), np.ones(len(s)))
    adata.obsm["X_lsi"] = ((u - mean) / scale).astype(np.float32)
    adata.varm["LSI"] = v.astype(np.float32)
    adata.uns["lsi"] = {
        "schema_version": SCHEMA_VERSION,
        "stdev": s / np.sqrt(adata.n_obs - 1),
        "depth_correlation": correlation,
        "scale": s * scale,
        "offset": mean / scale,
        "unit": False,
        **({"tfidf": dict(adata.uns["tfidf"])} if "tfidf" in adata.uns else {}),
    }
    if "tfidf" in adata.uns and "idf" in adata.var:
        store_lsi_recipe(adata)
    return data if copy else None


def store_lsi_recipe(adata: anndata.AnnData) -> None:
    """Store how new cells get the coordinates in ``obsm["X_lsi"]``."""
    store_recipe(adata, "X_lsi", _build_lsi_recipe(adata))


def _build_lsi_recipe(adata: anndata.AnnData) -> ProjectionRecipe:
    """Return how new cells get the coordinates of data after LSI of counts."""
    state = adata.uns["lsi"]
    loadings: NDArray[np.float32] = np.asarray(adata.varm["LSI"], np.float32)
    idf: NDArray[np.float64] = np.asarray(adata.var["idf"], np.float64)
    used = np.flatnonzero(np.any(loadings != 0, axis=1) | (idf > 0))
    return ProjectionRecipe(
        transform="tfidf",
        features=tuple(map(str, adata.var_names[used])),
        used=np.arange(len(used)),
        scale=idf[used],
        mean=np.zeros(len(used)),
        loadings=(loadings[used] / np.asarray(state["scale"], np.float32)).astype(np.float32),
        offset=np.asarray(state["offset"], np.float64),
        target=float(state["tfidf"]["scale_factor"]),
        unit_coordinates=bool(state["unit"]),
        log_tf=bool(state["tfidf"]["log_tf"]),
        log_tfidf=bool(state["tfidf"]["log_tfidf"]),
    )


def _svd_by_muon(values: Any, k: int, random_state: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    import muon

    entries = values.data if sparse.issparse(values) else np.asarray(values)
    if entries.size and entries.min() < 0:
        raise ValueError("values are negative: LSI needs TF-IDF values; call muport.pp.tfidf on the counts first.")
    work = anndata.AnnData(values.astype(np.float32))
    # muon draws the initial vector from NumPy's global generator
    with preserve_generators(random_state):
        muon.atac.tl.lsi(work, scale_embeddings=False, n_comps=k)
    u: NDArray[Any] = np.asarray(work.obsm["X_lsi"], dtype=np.float64)
    v: NDArray[Any] = np.asarray(work.varm["LSI"], dtype=np.float64)
    u, vt = svd_flip(u, v.T, u_based_decision=False)
    return u, np.asarray(work.uns["lsi"]["stdev"], np.float64) * np.sqrt(len(u) - 1), vt.T


def depth_correlation(z: NDArray[Any], depth: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Spearman correlation of each column with depth, 0 where either is constant: (k,)."""
    ranks = rankdata(z, axis=0) - (len(z) + 1) / 2
    depth_ranks = rankdata(depth) - (len(z) + 1) / 2
    norm = np.sqrt((ranks**2).sum(axis=0) * (depth_ranks**2).sum())
    correlation: NDArray[np.float64] = np.divide(depth_ranks @ ranks, norm, out=np.zeros(z.shape[1]), where=norm > 0)
    return correlation


def select_components(correlation: NDArray[np.float64], max_correlation: float, n: int) -> NDArray[np.int64]:
    """Return the positions of the first `n` components that do not correlate with depth."""
    selected = np.flatnonzero(np.abs(correlation) <= max_correlation)[:n]
    if not len(selected):
        raise ValueError(
            f"every component correlates with the depth of the cells ({np.round(correlation, 2).tolist()}): raise "
            f"max_depth_correlation={max_correlation:g}, or n_comps."
        )
    excluded = np.flatnonzero(np.abs(correlation) > max_correlation)
    if len(excluded):
        logger.info("LSI: components %s correlate with depth and are left out.", (excluded + 1).tolist())
    return selected


@accept_data_names
def project_lsi(
    data: anndata.AnnData | mudata.MuData,
    reference: anndata.AnnData | mudata.MuData,
    *,
    layer: str | None = None,
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    """Project new cells into the space that :func:`lsi` or :func:`iterative_lsi` computed for a reference.

    The coordinates of a cell depend only on its own counts and on the reference. A cell of the reference gets the
    coordinates that it has there. Memory: a few thousand cells at a time.

    Parameters
    ----------
    data
        New cells with peak counts: AnnData, or MuData with such a `modality`. Peaks are matched by name; peaks that the
        reference does not use are not needed and are ignored.
    reference
        AnnData after LSI, or MuData with such a `modality`. A subset of its cells is enough.
    layer
        Layer of `data` with the counts. None: ``X``.
    modality
        Modality of a MuData.
    copy
        Return a copy with the results instead of writing into `data`.

    Returns
    -------
    None, or the copy. Writes ``obsm["X_lsi"]`` (cells x components, float32).

    Raises
    ------
    KeyError
        If the reference has no LSI, or `data` lacks peaks that the reference uses.
    ValueError
        If values are not counts, `data` is a view, or a newer version of muport wrote the LSI of the reference.

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
    adata = writable_modality(data, modality)
    fitted = reference.mod[modality] if isinstance(reference, mudata.MuData) else reference
    state = fitted.uns.get("lsi", {})
    if "LSI" not in fitted.varm or "tfidf" not in state or "idf" not in fitted.var:
        raise KeyError("the reference has no LSI of counts: call muport.pp.iterative_lsi, or tfidf and lsi, on it.")
    # version 0.1.0 wrote no number
    check_schema_version(state.get("schema_version", 1), "uns['lsi'] of the reference")
    recipe = _build_lsi_recipe(fitted)
    _check_peaks(adata.var_names, pd.Index(recipe.features))
    adata.obsm["X_lsi"] = compute_coordinates(get_counts(adata, layer, (1, 1)), adata.var_names, recipe, "the data")
    return data if copy else None


def _check_peaks(names: pd.Index, used: pd.Index) -> None:
    missing = np.flatnonzero(~used.isin(names))
    if len(missing):
        raise KeyError(
            f"{len(missing)} of the {len(used)} peaks that the reference uses are not in the data, for example "
            f"{used[int(missing[0])]!r}: count the new cells on the reference's peaks."
        )


def project_counts(
    counts: Any, columns: NDArray[np.int64], idf: NDArray[np.float32], loadings: NDArray[Any], settings: dict[str, Any]
) -> NDArray[np.float32]:
    """Return the TF-IDF values of the given columns (p,) times the loadings (p, k), in blocks of cells: (n, k)."""
    z = np.empty((counts.shape[0], loadings.shape[1]), dtype=np.float32)
    for rows, block in iterate_blocks(counts):
        if len(columns) < block.shape[1]:
            block = block[:, columns]
        # the product by columns reads the loadings once, and takes a fourth of the time
        z[rows] = apply_tfidf(block, idf, settings).tocsc() @ loadings
    return z
