"""Iterative latent semantic indexing, fitted on some cells, for all cells, in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from muport._parallel import single_threaded
from muport.neighbors import kmeans
from muport.pp._counts import (
    check_integers,
    check_numbers,
    counts_of,
    logger,
    n_detected,
    part_of,
    rows_of,
    warn_of_empty,
)
from muport.pp._lsi import (
    SCALE_FACTOR,
    depth_correlation,
    inverse_frequency,
    kept_components,
    on_sphere,
    project,
    signs,
    weigh,
)

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

#: TF-IDF as muon's defaults have it.
_SETTINGS = {"log_tf": True, "log_idf": True, "log_tfidf": False, "scale_factor": SCALE_FACTOR}
#: Components computed beyond those asked for, in place of those that follow depth.
_SPARE = 2
#: Fewest cells of a cluster on average: with fewer, the means of clusters are noise.
_CELLS_PER_CLUSTER = 50
#: Components that stay if none more rise above chance: a few cells, or few counts, may hide what is there.
_LEAST = 10
#: Singular values of the data without structure that are looked at.
_CHANCE = 4


@dataclass(frozen=True)
class _Settings:
    n_comps: int
    n_iter: int
    n_features: int
    n_clusters: int
    n_fit_cells: int
    most: float
    seed: int


@dataclass(frozen=True)
class _Space:
    """Columns (p,) used, their weights (p,), loadings (p, k), and s / sqrt(s^2 - chance^2) of every component (k,)."""

    columns: NDArray[np.int64]
    idf: NDArray[np.float32]
    loadings: NDArray[np.float32]
    singular: NDArray[np.float64]
    scale: NDArray[np.float64]
    correlation: NDArray[np.float64]
    chance: float

    def place(self, counts: Any) -> NDArray[np.float32]:
        """Coordinates of cells (n, k), of length 1."""
        scaled = self.loadings / self.scale.astype(np.float32)
        return on_sphere(project(counts, self.columns, self.idf, scaled, _SETTINGS))


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
    r"""Reduce peak counts by latent semantic indexing, on features that differ between clusters found before.

    In each round the counts of the chosen peaks are weighed as by :func:`tfidf` and decomposed,
    :math:`T \approx U S V^\top`; components that follow depth are dropped as by :func:`lsi`. A singular value counts
    for as much as it exceeds chance: cells lie at

    .. math:: z_{ik} = u_{ik} \sqrt{s_k^2 - s_0^2},

    divided by their length, where :math:`s_0` is the largest singular value that does not follow depth after the
    entries of the matrix were dealt out at random, each cell and each peak keeping its number of them. Components below
    it are noise and are left out, so that fewer than `n_comps` may stay; but ten stay, for which :math:`s_0` is lowered
    where it must be. The first round takes the peaks of most cells; each
    later one those whose mean share of a cell's counts varies most between `n_clusters` k-means clusters of the round
    before.

    Rounds see `n_fit_cells` cells drawn at random; then all cells are projected. The same cells, in the same order, and
    the same seed give the same result.

    Memory: the counts of `n_fit_cells` cells, three times, and a few thousand cells at a time; `data` may be backed by
    a file.

    Parameters
    ----------
    data
        AnnData of peak counts, or MuData with such a `modality`.
    n_comps
        Largest number of components.
    n_iter
        Rounds. 1: no clusters.
    n_features
        Peaks in every round; all that any cell has, if they are fewer.
    n_clusters
        Clusters; fewer where they would have less than 50 cells on average.
    n_fit_cells
        Cells that are decomposed; all, if they are fewer.
    mask_var
        Boolean column of ``var``: only such peaks are used, for example ``"selected"`` of :func:`select_features`.
    max_depth_correlation
        Largest absolute rank correlation with the number of peaks of a cell that a component may have. 1: keep all.
    layer
        Layer of the counts. None: ``X``.
    random_state
        Seed.
    modality
        Modality of a MuData.
    copy
        Return a changed copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes ``obsm["X_lsi"]`` (cells x components, float32, rows of length 1; 0 for a cell without
    counts), ``varm["LSI"]`` (peaks x components, V), ``var["idf"]`` and ``var["lsi_features"]``, and in ``uns["lsi"]``
    ``stdev`` (of the components), ``chance`` (:math:`s_0`), ``depth_correlation`` (of all components), and what
    :func:`project_lsi` needs.

    Raises
    ------
    KeyError
        If the modality, the layer or the column is not there.
    ValueError
        If values are no counts, every component follows depth, a number is out of range, or `data` is a view.

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
    Cusanovich et al. (2015); Granja et al. (2021), ArchR; Horn (1965), for the comparison with chance.
    """
    check_integers(n_comps=n_comps, n_iter=n_iter, n_features=n_features, n_clusters=n_clusters,
                   n_fit_cells=n_fit_cells, random_state=random_state)  # fmt: skip
    check_numbers(max_depth_correlation=(max_depth_correlation, 0, 1))
    data = data.copy() if copy else data
    part = part_of(data, modality)
    counts = counts_of(part, layer)
    settings = _Settings(
        n_comps, n_iter, n_features, n_clusters, max(n_fit_cells, 4), max_depth_correlation, random_state
    )
    n_peaks, n_cells = n_detected(counts)
    warn_of_empty(n_peaks, part.obs_names, modality if isinstance(data, mudata.MuData) else "the data")
    space = _fit(counts, n_peaks, _candidates(part, n_cells, mask_var), n_cells, settings)
    _write(part, space, space.place(counts))
    return data if copy else None


def _candidates(part: anndata.AnnData, n_cells: NDArray[np.int64], mask_var: str | None) -> NDArray[np.int64]:
    """Columns of peaks that may be used."""
    allowed = n_cells > 0
    if mask_var is not None:
        if mask_var not in part.var:
            raise KeyError(f"mask_var={mask_var!r} is not in var, which has {list(part.var.columns)}.")
        allowed &= np.asarray(part.var[mask_var], dtype=bool)
    if allowed.sum() < 3:
        raise ValueError(f"{int(allowed.sum())} peaks have counts (mask_var={mask_var!r}): LSI needs at least 3.")
    return np.flatnonzero(allowed)


def _fit(
    counts: Any, n_peaks: NDArray[np.int64], allowed: NDArray[np.int64], n_cells: NDArray[np.int64], to: _Settings
) -> _Space:
    rng = np.random.default_rng(to.seed)
    filled = np.flatnonzero(n_peaks > 0)
    if len(filled) < 4:
        raise ValueError(f"{len(filled)} cells have counts: LSI needs at least 4.")
    if len(filled) > to.n_fit_cells:
        filled = np.sort(rng.choice(filled, to.n_fit_cells, replace=False))
    own, depth = rows_of(counts, filled), n_peaks[filled]
    columns = _top(n_cells[allowed], allowed, to.n_features)
    space = _decompose(own, depth, columns, to, rng)
    for _ in range(to.n_iter - 1):
        following = _top(_variance(own, space.place(own), to)[allowed], allowed, to.n_features)
        if np.array_equal(following, columns):
            break
        columns = following
        space = _decompose(own, depth, columns, to, rng)
    return space


def _top(score: NDArray[Any], columns: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The `n` columns with the highest score, in ascending order."""
    return np.sort(columns[np.argsort(-score, kind="stable")[:n]])


def _variance(own: sparse.csr_matrix, z: NDArray[np.float32], to: _Settings) -> NDArray[np.float64]:
    """Variance over clusters of their mean share of counts, (p,)."""
    k = max(2, min(to.n_clusters, len(z) // _CELLS_PER_CLUSTER))
    label = kmeans(z, k, random_state=to.seed).labels
    depth = np.asarray(own.sum(axis=1)).ravel()
    weight = np.bincount(label)[label] * np.maximum(depth, 1e-12)
    mean = sparse.csr_matrix((1 / weight, (label, np.arange(len(z))))) @ own
    share: NDArray[np.float64] = mean.toarray().var(axis=0)
    return share


def _decompose(
    own: sparse.csr_matrix,
    depth: NDArray[np.int64],
    columns: NDArray[np.int64],
    to: _Settings,
    rng: np.random.Generator,
) -> _Space:
    part = own[:, columns] if len(columns) < own.shape[1] else own.copy()
    idf = inverse_frequency(np.asarray(part.sum(axis=0, dtype=np.float64)).ravel(), part.shape[0])
    chance = _chance(part, depth, idf, to, rng)
    u, s, v = _svd(weigh(part, idf, _SETTINGS), to.n_comps + _SPARE, rng)
    correlation = depth_correlation(u, depth)
    kept = kept_components(correlation, to.most, to.n_comps)
    kept = kept[s[kept] > 1e-5 * s[0]]
    rising = int((s[kept] > chance).sum())
    if not rising:
        logger.warning("LSI: no component rises above chance: the cells may not differ, or are too few.")
    above = kept[: max(rising, _LEAST)]
    chance = min(chance, float(s[above[-1]]) * (1 - 1e-3))
    singular = s[above]
    scale = singular / np.sqrt(singular**2 - chance**2)
    return _Space(columns, idf, v[:, above].astype(np.float32), singular, scale, correlation, chance)


def _chance(
    part: sparse.csr_matrix, depth: NDArray[np.int64], idf: NDArray[np.float32], to: _Settings, rng: np.random.Generator
) -> float:
    """Largest singular value, of those that do not follow depth, of the entries dealt out at random."""
    column = rng.permutation(part.indices)
    dealt = sparse.csr_matrix((part.data.copy(), column, part.indptr.copy()), shape=part.shape)
    dealt.sum_duplicates()
    u, s, _ = _svd(weigh(dealt, idf, _SETTINGS), _CHANCE, rng)
    free = np.abs(depth_correlation(u, depth)) <= to.most
    # the first is the mean, which all data have
    free[0] = False
    return float(s[free].max()) if free.any() else float(s[-1])


def _svd(
    t: sparse.csr_matrix, k: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Left vectors, values and right vectors of the k largest singular values, signs fixed."""
    start = rng.normal(size=min(t.shape)).astype(t.dtype)
    # threads only wait for each other in the small products of the solver
    with single_threaded():
        u, s, vt = svds(t, k=min(k, min(t.shape) - 1), v0=start)
    u, s, v = u[:, ::-1].astype(np.float64), s[::-1].astype(np.float64), vt[::-1].T.astype(np.float64)
    sign = signs(v)
    return u * sign, s, v * sign


def _write(part: anndata.AnnData, space: _Space, z: NDArray[np.float32]) -> None:
    loadings = np.zeros((part.n_vars, space.loadings.shape[1]), dtype=np.float32)
    loadings[space.columns] = space.loadings
    idf, used = np.zeros(part.n_vars, dtype=np.float32), np.zeros(part.n_vars, dtype=bool)
    idf[space.columns], used[space.columns] = space.idf, True
    part.obsm["X_lsi"], part.varm["LSI"] = z, loadings
    part.var["idf"], part.var["lsi_features"] = idf, used
    part.uns["lsi"] = {
        "stdev": space.singular / np.sqrt(max(part.n_obs - 1, 1)),
        "depth_correlation": space.correlation,
        "chance": space.chance,
        "scale": space.scale,
        "offset": np.zeros(len(space.scale)),
        "unit": True,
        "tfidf": dict(_SETTINGS),
    }
