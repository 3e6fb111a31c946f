"""Selection of features that are detected in every batch and vary within batches more than between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport._checks import check_integers, check_numbers
from muport.data import accept_data_names, joined_column
from muport.data.reading._count_matrix import get_counts, iterate_blocks
from muport.pp._counts import writable_modality

if TYPE_CHECKING:
    from typing import Any

    import anndata
    import mudata
    from numpy.typing import NDArray


@accept_data_names
def select_features(
    data: anndata.AnnData | mudata.MuData,
    *,
    batch_key: str | None = None,
    min_share: float = 0.01,
    n_top: int | None = None,
    layer: str | None = None,
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    r"""Select peaks that are detected in every batch and vary within batches rather than between them.

    Let :math:`p_{bj}` be the fraction of the cells of batch b that have peak j, B the number of batches, N the number
    of cells, and :math:`d_j` the number of cells that have peak j. The score of a peak is the variance of its binarized
    TF-IDF values within batches, times the fraction :math:`1 - \rho_j` of its variance that batches do not explain:

    .. math:: s_j = \Bigl[\frac1B \sum_b p_{bj} (1 - p_{bj})\Bigr] \log^2\!\Bigl(1 + \frac{N}{d_j}\Bigr) (1 - \rho_j),
              \qquad \rho_j = \frac{v_j}{v_j + \frac1B \sum_b p_{bj} (1 - p_{bj})}.

    Batches may differ in sequencing depth. :math:`v_j` is therefore the mean squared deviation of :math:`p_{bj}` from
    the value that the depth of the batch predicts, :math:`1 - \exp(-d_b a_j)` (a Poisson model of rank one), less the
    variance due to sampling. Memory: a few thousand cells at a time, and batches x peaks numbers.

    Parameters
    ----------
    data
        AnnData with counts, or MuData with such a `modality`.
    batch_key
        Column of ``obs`` with the batch of each cell. None: one batch.
    min_share
        Smallest fraction of cells that must have the peak, in every batch.
    n_top
        Number of peaks to select, by highest score. None: all peaks that pass `min_share`.
    layer
        Layer with the counts. None: ``X``.
    modality
        Modality of a MuData.
    copy
        Return a copy with the results instead of writing into `data`.

    Returns
    -------
    None, or the copy. Writes columns of ``var``: ``detection`` (fraction of cells with the peak), ``detection_min``
    (lowest fraction in a batch), ``batch_share`` (:math:`\rho`), ``detection_score`` (:math:`s`) and ``selected``.

    Raises
    ------
    KeyError
        If the modality, the layer or the column does not exist.
    ValueError
        If values are not counts, cells have no batch, no peak passes `min_share`, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 40)).astype("float32"))
    >>> adata.obs["batch"] = ["a", "b"] * 30
    >>> muport.pp.select_features(adata, batch_key="batch", n_top=10)
    >>> int(adata.var["selected"].sum())
    10
    """
    check_numbers(0, 1, min_share=min_share)
    if n_top is not None:
        check_integers(n_top=n_top)
    data = data.copy() if copy else data
    adata = writable_modality(data, modality)
    batch = _batch_codes(data, adata, batch_key)
    batch_size = np.bincount(batch)
    detected = _count_detected(get_counts(adata, layer), batch, len(batch_size))
    n_cells = detected.sum(axis=0)
    fraction = detected / batch_size[:, None]
    lowest, batch_share = fraction.min(axis=0), _explained_by_batch(fraction, batch_size)
    allowed = (lowest >= min_share) & (n_cells > 0)
    if not allowed.any():
        raise ValueError(
            f"min_share={min_share:g}: no feature is detected in this fraction of every batch (the highest is "
            f"{lowest.max():.3g}): lower it, or filter cells."
        )
    idf_squared = np.log1p(len(batch) / np.maximum(n_cells, 1)) ** 2
    score = (fraction * (1 - fraction)).mean(axis=0) * idf_squared * (1 - batch_share)
    selected = np.zeros(adata.n_vars, dtype=bool)
    order = np.argsort(np.where(allowed, -score, np.inf), kind="stable")
    selected[order[: min(int(allowed.sum()), n_top or adata.n_vars)]] = True
    adata.var["detection"] = n_cells / len(batch)
    adata.var["detection_min"], adata.var["batch_share"] = lowest, batch_share
    adata.var["detection_score"], adata.var["selected"] = score, selected
    return data if copy else None


def _batch_codes(
    data: anndata.AnnData | mudata.MuData, adata: anndata.AnnData, batch_key: str | None
) -> NDArray[np.int64]:
    """Return the batch of each cell of `adata`, which is `data` or one of its modalities: (n,), without gaps."""
    if batch_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    column = joined_column(adata if batch_key in adata.obs else data, batch_key, "batch_key")
    codes = column.codes if batch_key in adata.obs else column.codes[data.obs_names.get_indexer(adata.obs_names)]
    if (codes < 0).any():
        first = adata.obs_names[int(np.flatnonzero(codes < 0)[0])]
        raise ValueError(
            f"batch_key={batch_key!r}: {int((codes < 0).sum())} cells have no batch, for example {first!r}."
        )
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _count_detected(counts: Any, batch: NDArray[np.int64], n_batches: int) -> NDArray[np.float64]:
    """Return the number of cells of each batch that have each feature: (B, p)."""
    n_cells = np.zeros(n_batches * counts.shape[1], dtype=np.int64)
    for rows, block in iterate_blocks(counts):
        block.eliminate_zeros()
        batch_of_entry = np.repeat(batch[rows], np.diff(block.indptr))
        n_cells += np.bincount(batch_of_entry * counts.shape[1] + block.indices, minlength=len(n_cells))
    return n_cells.reshape(n_batches, -1).astype(np.float64)


def _explained_by_batch(fraction: NDArray[np.float64], batch_size: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the fraction of variance that batches explain beyond depth and sampling, in [0, 1]: (p,)."""
    if len(batch_size) == 1:
        return np.zeros(fraction.shape[1])
    # a feature of all cells would have an infinite rate: half a cell of the batch counts as without it
    rate = -np.log1p(-np.minimum(fraction, 1 - 0.5 / batch_size[:, None]))
    depth = rate.sum(axis=1)
    expected = -np.expm1(-np.outer(depth, rate.sum(axis=0) / max(depth.sum(), 1e-300)))
    sampling = (expected * (1 - expected) / batch_size[:, None]).mean(axis=0)
    between = np.maximum(((fraction - expected) ** 2).mean(axis=0) - sampling, 0)
    within = (fraction * (1 - fraction)).mean(axis=0)
    total = between + within
    explained: NDArray[np.float64] = np.divide(between, total, out=np.zeros(len(total)), where=total > 0)
    return explained
