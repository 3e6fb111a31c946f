"""Iterative latent semantic indexing: fitted on a sample of cells, applied to all cells in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse

from muport._arrays import unit_rows
from muport._checks import check_integers, check_numbers, check_seed
from muport._schema_version import SCHEMA_VERSION
from muport.data import accept_data_names
from muport.data.reading._count_matrix import get_counts
from muport.neighbors import kmeans
from muport.pp._counts import count_nonzero, logger, read_rows_sorted, warn_of_empty_cells, writable_modality
from muport.pp._lsi import (
    SCALE_FACTOR,
    apply_tfidf,
    depth_correlation,
    inverse_document_frequency,
    project_counts,
    select_components,
    store_lsi_recipe,
)
from muport.pp.components._row_blocks import RowBlocks
from muport.pp.components._standardized_pca import truncated_svd

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

#: Settings of TF-IDF: the defaults of muon.
_TFIDF = {"log_tf": True, "log_idf": True, "log_tfidf": False, "scale_factor": SCALE_FACTOR}
#: Components computed in addition to `n_comps`, to replace those that correlate with depth.
_EXTRA_COMPS = 2
#: Smallest mean number of cells per cluster. With fewer cells, the means of clusters are noise.
_CELLS_PER_CLUSTER = 50
#: Smallest number of components returned. With few cells or counts, true structure may not exceed chance.
_MIN_COMPS = 10
#: Number of singular values computed for the permuted matrix.
_CHANCE_COMPS = 4


@dataclass(frozen=True)
class LSISettings:
    """The arguments of :func:`iterative_lsi` that control the fit."""

    n_comps: int
    n_iter: int
    n_features: int
    n_clusters: int
    n_fit_cells: int
    max_depth_correlation: float
    random_state: int

    def __post_init__(self) -> None:
        check_integers(n_comps=self.n_comps, n_iter=self.n_iter, n_features=self.n_features,
                       n_clusters=self.n_clusters, n_fit_cells=self.n_fit_cells)  # fmt: skip
        check_seed(self.random_state)
        check_numbers(0, 1, max_depth_correlation=self.max_depth_correlation)


@dataclass(frozen=True)
class _LSIFit:
    """The result of one round.

    - `columns`: (p,) columns of the peaks used.
    - `idf`: (p,) weights of these peaks.
    - `loadings`: (p, k) right singular vectors.
    - `singular`: (k,) singular values s.
    - `scale`: (k,) s / sqrt(s^2 - chance^2), by which coordinates are divided.
    - `correlation`: Rank correlation of each computed component with depth.
    - `chance`: Largest singular value expected without structure.
    """

    columns: NDArray[np.int64]
    idf: NDArray[np.float32]
    loadings: NDArray[np.float32]
    singular: NDArray[np.float64]
    scale: NDArray[np.float64]
    correlation: NDArray[np.float64]
    chance: float

    @property
    def scaled_loadings(self) -> NDArray[np.float32]:
        """(p, k) weights of the TF-IDF values in the coordinates, before these get length 1."""
        scaled: NDArray[np.float32] = np.asarray(self.loadings / self.scale.astype(np.float32), np.float32)
        return scaled

    def transform(self, counts: Any) -> NDArray[np.float32]:
        """Return the coordinates of cells, of length 1: (n, k)."""
        return unit_rows(project_counts(counts, self.columns, self.idf, self.scaled_loadings, _TFIDF))


@accept_data_names
def iterative_lsi(
    data: anndata.AnnData | mudata.MuData,
    *,
    n_comps: int = 50,
    n_iter: int = 2,
    n_features: int = 50_000,
    n_clusters: int = 10,
    n_fit_cells: int = 20_000,
    mask_var: str | None = None,
    max_depth_correlation: float = 0.75,
    layer: str | None = None,
    random_state: int = 0,
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    r"""Reduce peak counts by iterative latent semantic indexing, on peaks that differ between clusters of cells.

    The first round uses the peaks that are detected in most cells. Each later round uses the peaks whose mean fraction
    of a cell's counts varies most between `n_clusters` k-means clusters of the round before. In each round, the counts
    of these peaks are weighted as by :func:`tfidf` and decomposed, :math:`T \approx U S V^\top`; components that
    correlate with depth are left out as by :func:`lsi`. The coordinates of cells are

    .. math:: z_{ik} = u_{ik} \sqrt{s_k^2 - s_0^2},

    scaled to length 1 for each cell. :math:`s_0` is the singular value expected by chance: the largest one that does
    not correlate with depth after the entries of the matrix were permuted, such that each cell and each peak keeps its
    number of entries. Components with a smaller singular value are noise and are left out, so the result may have fewer
    than `n_comps` components. At least ten components are returned (or `n_comps`); :math:`s_0` is lowered if necessary.

    The rounds use `n_fit_cells` cells drawn at random; then all cells are projected. The same cells in the same order
    and the same seed give the same result.

    Memory: three times the counts of `n_fit_cells` cells, and a few thousand cells at a time. `data` may be backed by a
    file.

    Parameters
    ----------
    data
        AnnData with peak counts, or MuData with such a `modality`.
    n_comps
        Largest number of components.
    n_iter
        Number of rounds. 1: no clusters are used.
    n_features
        Number of peaks in each round; all detected peaks if there are fewer.
    n_clusters
        Number of clusters; fewer if clusters would have fewer than 50 cells on average.
    n_fit_cells
        Number of cells in the decomposition; all cells if there are fewer.
    mask_var
        Boolean column of ``var``: peaks that may be used, for example ``"selected"`` of :func:`select_features`.
    max_depth_correlation
        Largest absolute rank correlation of a component with the number of peaks of a cell. 1: keep all components.
    layer
        Layer with the counts. None: ``X``.
    random_state
        Seed.
    modality
        Modality of a MuData.
    copy
        Return a copy with the results instead of writing into `data`.

    Returns
    -------
    None, or the copy. Writes ``obsm["X_lsi"]`` (cells x components, float32, rows of length 1; 0 for a cell without
    counts), ``varm["LSI"]`` (peaks x components, V), ``var["idf"]``, ``var["lsi_features"]`` (peaks of the last round),
    and ``uns["lsi"]`` with ``stdev`` (of the components), ``chance`` (:math:`s_0`), ``depth_correlation`` (of all
    components) and the values that :func:`project_lsi` needs.

    Raises
    ------
    KeyError
        If the modality, the layer or the column does not exist.
    ValueError
        If values are not counts, every component correlates with depth, a number is out of range, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> mean = np.where(np.arange(40) // 20 == np.arange(200)[:, None] // 100, 0.8, 0.2)
    >>> adata = anndata.AnnData(rng.poisson(mean).astype("float32"))
    >>> muport.pp.iterative_lsi(adata, n_comps=5)
    >>> bool(abs(adata.obsm["X_lsi"][:100, 0].mean() - adata.obsm["X_lsi"][100:, 0].mean()) > 1)
    True

    References
    ----------
    Cusanovich et al. (2015); Granja et al. (2021), ArchR; Horn (1965) for the comparison with chance.
    """
    settings = LSISettings(n_comps, n_iter, n_features, n_clusters, n_fit_cells, max_depth_correlation, random_state)
    data = data.copy() if copy else data
    adata = writable_modality(data, modality)
    counts = get_counts(adata, layer)
    n_peaks, n_cells = count_nonzero(counts)
    warn_of_empty_cells(n_peaks, adata.obs_names, modality if isinstance(data, mudata.MuData) else "the data")
    allowed = _allowed_columns(adata, n_cells, mask_var)
    rng = np.random.default_rng(random_state)
    rows = _choose_cells(n_peaks, settings.n_fit_cells, rng)
    fit, z = _fit_rounds(read_rows_sorted(counts, rows), n_peaks[rows], allowed, n_cells, settings, rng)
    _write(adata, fit, _scatter(z, rows, len(n_peaks)) if len(rows) == (n_peaks > 0).sum() else fit.transform(counts))
    return data if copy else None


def _allowed_columns(adata: anndata.AnnData, n_cells: NDArray[np.int64], mask_var: str | None) -> NDArray[np.int64]:
    """Return the columns of the peaks that may be used."""
    allowed = n_cells > 0
    if mask_var is not None:
        if mask_var not in adata.var:
            raise KeyError(f"mask_var={mask_var!r} is not in var, which has {list(adata.var.columns)}.")
        allowed &= np.asarray(adata.var[mask_var], dtype=bool)
    if allowed.sum() < 3:
        raise ValueError(f"{int(allowed.sum())} peaks have counts (mask_var={mask_var!r}): LSI needs at least 3.")
    return np.flatnonzero(allowed)


def _choose_cells(n_peaks: NDArray[np.int64], n_fit_cells: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows of the cells of the fit, in ascending order."""
    rows = np.flatnonzero(n_peaks > 0)
    if len(rows) < 4:
        raise ValueError(f"{len(rows)} cells have counts: LSI needs at least 4.")
    if len(rows) <= max(n_fit_cells, 4):
        return rows
    return np.sort(rng.choice(rows, max(n_fit_cells, 4), replace=False))


def _scatter(z: NDArray[np.float32], rows: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Return the coordinates of n cells; those that are not in `rows` lie at the origin."""
    everywhere = np.zeros((n, z.shape[1]), np.float32)
    everywhere[rows] = z
    return everywhere


def _fit_rounds(
    sample: sparse.csr_matrix,
    depth: NDArray[np.int64],
    allowed: NDArray[np.int64],
    n_cells: NDArray[np.int64],
    settings: LSISettings,
    rng: np.random.Generator,
) -> tuple[_LSIFit, NDArray[np.float32]]:
    """Return the fit to cells with counts `sample` and their number of peaks `depth`, and their coordinates."""
    columns = _top_columns(n_cells[allowed], allowed, settings.n_features)
    fit, z = _decompose(sample, depth, columns, settings, rng)
    # no later round has other peaks if all fit into the first
    for _ in range(settings.n_iter - 1 if len(columns) < len(allowed) else 0):
        variance = variance_between_clusters(sample, z, settings)
        next_columns = _top_columns(variance[allowed], allowed, settings.n_features)
        if np.array_equal(next_columns, columns):
            break
        columns = next_columns
        fit, z = _decompose(sample, depth, columns, settings, rng)
    return fit, z


def _top_columns(score: NDArray[Any], columns: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the `n` columns with the highest score, in ascending order."""
    return np.sort(columns[np.argsort(-score, kind="stable")[:n]])


def variance_between_clusters(
    counts: sparse.csr_matrix, z: NDArray[np.float32], settings: LSISettings
) -> NDArray[np.float64]:
    """Return the variance between clusters of the mean fraction of a cell's counts in each peak: (p,)."""
    k = max(2, min(settings.n_clusters, len(z) // _CELLS_PER_CLUSTER))
    label = kmeans(z, k, random_state=settings.random_state).labels
    depth = np.asarray(counts.sum(axis=1)).ravel()
    weight = np.bincount(label)[label] * np.maximum(depth, 1e-12)
    mean = sparse.csr_matrix((1 / weight, (label, np.arange(len(z))))) @ counts
    variance: NDArray[np.float64] = mean.toarray().var(axis=0)
    return variance


def _decompose(
    counts: sparse.csr_matrix,
    depth: NDArray[np.int64],
    columns: NDArray[np.int64],
    settings: LSISettings,
    rng: np.random.Generator,
) -> tuple[_LSIFit, NDArray[np.float32]]:
    """Return the fit of one round, and the coordinates of its cells."""
    if len(columns) < counts.shape[1]:
        counts = counts[:, columns]
    total = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    idf = inverse_document_frequency(total, counts.shape[0])
    chance = chance_singular_value(counts, depth, idf, settings.max_depth_correlation, rng)
    weighted = RowBlocks.of(counts, partial(apply_tfidf, idf=idf, settings=_TFIDF))
    u, s, v = truncated_svd(weighted, settings.n_comps + _EXTRA_COMPS, rng)
    correlation = depth_correlation(u, depth)
    selected = select_components(correlation, settings.max_depth_correlation, settings.n_comps)
    # the rank of the matrix may be lower than the number of components
    selected = selected[s[selected] > 1e-5 * s[0]]
    n_above_chance = int((s[selected] > chance).sum())
    if not n_above_chance:
        logger.warning("LSI: no component rises above chance: the cells may not differ, or are too few.")
    selected = selected[: max(n_above_chance, _MIN_COMPS)]
    singular = s[selected]
    chance = min(chance, float(singular[-1]) * (1 - 1e-3))
    scale = singular / np.sqrt(singular**2 - chance**2)
    fit = _LSIFit(columns, idf, v[:, selected].astype(np.float32), singular, scale, correlation, chance)
    return fit, unit_rows(weighted.dot(fit.scaled_loadings))


def chance_singular_value(
    counts: sparse.csr_matrix,
    depth: NDArray[np.int64],
    idf: NDArray[np.float32],
    max_correlation: float,
    rng: np.random.Generator,
) -> float:
    """Return the largest singular value that does not correlate with depth after a permutation of the entries."""
    columns = rng.permutation(counts.indices)
    permuted = sparse.csr_matrix((counts.data, columns, counts.indptr), shape=counts.shape)
    weighted = RowBlocks.of(permuted, partial(apply_tfidf, idf=idf, settings=_TFIDF))
    u, s, _ = truncated_svd(weighted, _CHANCE_COMPS, rng)
    eligible = np.abs(depth_correlation(u, depth)) <= max_correlation
    # the first component is the mean, which any data have
    eligible[0] = False
    return float(s[eligible].max()) if eligible.any() else float(s[-1])


def _write(adata: anndata.AnnData, fit: _LSIFit, z: NDArray[np.float32]) -> None:
    loadings = np.zeros((adata.n_vars, fit.loadings.shape[1]), dtype=np.float32)
    loadings[fit.columns] = fit.loadings
    idf, used = np.zeros(adata.n_vars, dtype=np.float32), np.zeros(adata.n_vars, dtype=bool)
    idf[fit.columns], used[fit.columns] = fit.idf, True
    adata.obsm["X_lsi"], adata.varm["LSI"] = z, loadings
    adata.var["idf"], adata.var["lsi_features"] = idf, used
    adata.uns["lsi"] = {
        "schema_version": SCHEMA_VERSION,
        "stdev": fit.singular / np.sqrt(max(adata.n_obs - 1, 1)),
        "depth_correlation": fit.correlation,
        "chance": fit.chance,
        "scale": fit.scale,
        "offset": np.zeros(len(fit.scale)),
        "unit": True,
        "tfidf": dict(_TFIDF),
    }
    store_lsi_recipe(adata)
