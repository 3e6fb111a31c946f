"""Features that are seen in every batch, and vary within batches more than between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.data import joined_column
from muport.pp._counts import blocks, check_integers, check_numbers, counts_of, part_of

if TYPE_CHECKING:
    from typing import Any

    import anndata
    import mudata
    from numpy.typing import NDArray


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
    r"""Select peaks by how often cells have them: in every batch, and telling more of cells than of batches.

    With :math:`p_{bj}` the share of the cells of batch b that have peak j, p the mean over the B batches and N/d cells
    for each that has it, the score is the variance within batches of TF-IDF's presence-absence values, less the part of
    all variance that batches explain:

    .. math:: s_j = \Bigl[\frac1B \sum_b p_{bj} (1 - p_{bj})\Bigr] \log^2\!\Bigl(1 + \frac{N}{d_j}\Bigr) (1 - \rho_j),
              \qquad \rho_j = \frac{v_j}{v_j + \frac1B \sum_b p_{bj} (1 - p_{bj})}.

    Batches may be sequenced more or less deeply: :math:`v_j` is the mean squared deviation of :math:`p_{bj}` from what
    the batch's depth predicts, :math:`1 - \exp(-d_b a_j)` (a Poisson model of rank one), less what sampling explains.
    Memory: a few thousand cells at a time, and batches x peaks numbers.

    Parameters
    ----------
    data
        AnnData of counts, or MuData with such a `modality`.
    batch_key
        Column of ``obs`` with the batch. None: one batch.
    min_share
        Smallest share of cells, in every batch, that must have the peak.
    n_top
        Number of peaks: those with the highest score. None: all that are seen often enough.
    layer
        Layer of the counts. None: ``X``.
    modality
        Modality of a MuData.
    copy
        Return a changed copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes columns of ``var``: ``detection`` (share of cells), ``detection_min`` (lowest share in a
    batch), ``batch_share`` (:math:`\rho`), ``detection_score`` and ``selected``.

    Raises
    ------
    KeyError
        If the modality, the layer or the column is not there.
    ValueError
        If values are no counts, cells have no batch, no peak is seen often enough, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 40)).astype("float32"))
    >>> adata.obs["batch"] = ["a", "b"] * 30
    >>> muport.pp.select_features(adata, batch_key="batch", n_top=10)
    >>> int(adata.var["selected"].sum())
    10
    """
    check_numbers(min_share=(min_share, 0, 1))
    if n_top is not None:
        check_integers(n_top=n_top)
    data = data.copy() if copy else data
    part = part_of(data, modality)
    code = _batches(data, part, batch_key)
    size = np.bincount(code)
    found = _detected(counts_of(part, layer), code, len(size))
    share = found / size[:, None]
    lowest, batch_share, score = share.min(axis=0), _batch_share(share, size), np.zeros(part.n_vars)
    fine = (lowest >= min_share) & (found.sum(axis=0) > 0)
    if not fine.any():
        raise ValueError(
            f"min_share={min_share:g}: no feature is seen in that share of every batch (the highest is "
            f"{lowest.max():.3g}): lower it, or filter cells."
        )
    weight = np.log1p(len(code) / np.maximum(found.sum(axis=0), 1)) ** 2
    score = (share * (1 - share)).mean(axis=0) * weight * (1 - batch_share)
    selected = np.zeros(part.n_vars, dtype=bool)
    order = np.argsort(np.where(fine, -score, np.inf), kind="stable")
    selected[order[: min(int(fine.sum()), n_top or part.n_vars)]] = True
    part.var["detection"] = found.sum(axis=0) / len(code)
    part.var["detection_min"], part.var["batch_share"] = lowest, batch_share
    part.var["detection_score"], part.var["selected"] = score, selected
    return data if copy else None


def _batches(data: anndata.AnnData | mudata.MuData, part: anndata.AnnData, batch_key: str | None) -> NDArray[np.int64]:
    if batch_key is None:
        return np.zeros(part.n_obs, dtype=np.int64)
    column = joined_column(part if batch_key in part.obs else data, batch_key)
    code = column.codes if batch_key in part.obs else column.codes[data.obs_names.get_indexer(part.obs_names)]
    if (code < 0).any():
        first = part.obs_names[int(np.flatnonzero(code < 0)[0])]
        raise ValueError(
            f"batch_key={batch_key!r}: {int((code < 0).sum())} cells have no batch, for example {first!r}."
        )
    return np.unique(code, return_inverse=True)[1].astype(np.int64)


def _detected(counts: Any, code: NDArray[np.int64], n_batches: int) -> NDArray[np.float64]:
    """Cells of every batch that have a feature, (B, p)."""
    found = np.zeros(n_batches * counts.shape[1], dtype=np.int64)
    for rows, block in blocks(counts):
        block.eliminate_zeros()
        cell = np.repeat(code[rows], np.diff(block.indptr))
        found += np.bincount(cell * counts.shape[1] + block.indices, minlength=len(found))
    return found.reshape(n_batches, -1).astype(np.float64)


def _batch_share(share: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part of a feature's variance that batches explain beyond their depth and beyond chance, in [0, 1]: (p,)."""
    if len(size) == 1:
        return np.zeros(share.shape[1])
    rate = -np.log1p(-np.minimum(share, 1 - 0.5 / size[:, None]))
    depth = rate.sum(axis=1)
    expected = -np.expm1(-np.outer(depth, rate.sum(axis=0) / max(depth.sum(), 1e-300)))
    chance = (expected * (1 - expected) / size[:, None]).mean(axis=0)
    between = np.maximum(((share - expected) ** 2).mean(axis=0) - chance, 0)
    within = (share * (1 - share)).mean(axis=0)
    total = between + within
    explained: NDArray[np.float64] = np.divide(between, total, out=np.zeros(len(total)), where=total > 0)
    return explained
