"""Which peaks count for which gene: an interval join by sorting, and weights that fall with distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.pp._genomic_intervals import Genes, Intervals

#: Pairs of a gene and a peak looked at together.
_PAIRS = 2**21


def link(
    peaks: Intervals, genes: Genes, *, upstream: int, downstream: int, body: bool, decay: float | None
) -> tuple[sparse.csr_matrix, NDArray[np.str_]]:
    """Weights (peaks, genes) of the peaks near a gene's start, and the names of the genes that have any.

    The gene's target is its first base, or, with `body`, the gene. A peak counts if it overlaps the target or what lies
    up to `upstream` bases before it or `downstream` bases after it, as the gene is read, with weight exp(-d / decay), d
    the bases between peak and target (0 where they touch or overlap). Of genes with one name a peak counts for the
    nearest.

    Parameters
    ----------
    peaks, genes
        Intervals; chromosomes of both may be named with or without ``"chr"``.
    upstream, downstream
        Bases.
    body
        Whether the target is the whole gene.
    decay
        Bases in which a weight falls by a factor e. None: all weights are 1.

    Raises
    ------
    ValueError
        If no chromosome is in both, or no peak is near a gene.
    """
    chrom_of_peak, chrom_of_gene = _chromosomes(peaks.chrom, genes.where.chrom)
    tss = np.where(genes.forward, genes.where.start, genes.where.end - 1)
    first = genes.where.start if body else tss
    last = genes.where.end if body else tss + 1
    low = first - np.where(genes.forward, upstream, downstream)
    high = last + np.where(genes.forward, downstream, upstream)
    column, names = pd.factorize(genes.name)
    found = []
    for gene, peak in _overlaps(chrom_of_peak, peaks, chrom_of_gene, low, high):
        gap = np.maximum(np.maximum(first[gene] - peaks.end[peak], peaks.start[peak] - last[gene]), 0)
        weight = np.ones(len(gap)) if decay is None else np.exp(-gap / decay)
        found.append(np.column_stack([peak, column[gene], weight]))
    if not found:
        raise ValueError(f"no peak lies within {upstream} bases of a gene: are both of the same genome and assembly?")
    weights = _largest(np.concatenate(found), (len(peaks), len(names)))
    held = np.flatnonzero(np.diff(weights.tocsc().indptr))
    return weights[:, held].tocsr(), np.asarray(names)[held]


def _chromosomes(peaks: NDArray[np.str_], genes: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes of the chromosomes, the same for both."""
    if not np.isin(np.unique(peaks), np.unique(genes)).any():
        peaks, genes = _plain(peaks), _plain(genes)
    names, code = np.unique(np.concatenate([peaks, genes]), return_inverse=True)
    if not np.isin(np.unique(peaks), np.unique(genes)).any():
        raise ValueError(
            f"no chromosome is in both: the peaks have {np.unique(peaks)[:3].tolist()}, the annotation "
            f"{np.unique(genes)[:3].tolist()}."
        )
    return code[: len(peaks)].astype(np.int64), code[len(peaks) :].astype(np.int64)


def _plain(names: NDArray[np.str_]) -> NDArray[np.str_]:
    """Names of chromosomes without ``chr``; the mitochondrion's is MT."""
    short, code = np.unique(names, return_inverse=True)
    plain = np.array([name[3:] if name[:3].lower() == "chr" else name for name in short])
    return np.where(plain == "M", "MT", plain)[code]


def _overlaps(
    chrom_of_peak: NDArray[np.int64],
    peaks: Intervals,
    chrom_of_gene: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs (gene, peak) on one chromosome with peak.start < high and peak.end > low."""
    # chromosomes one behind the other, so far apart that no window reaches into the next
    width = int(max(peaks.end.max(), high.max())) + 1
    at = chrom_of_peak * width + peaks.start
    order = np.argsort(at, kind="stable")
    sorted_at, longest = at[order], int((peaks.end - peaks.start).max())
    offset = chrom_of_gene * width
    # what starts more than the longest peak before the window does not reach it; nor does the chromosome before
    begin = np.searchsorted(sorted_at, offset + np.maximum(low - longest, 0), side="left")
    count = np.searchsorted(sorted_at, offset + high, side="left") - begin
    total = np.concatenate([[0], np.cumsum(count)])
    edges = np.searchsorted(total[:-1], np.arange(0, total[-1] + _PAIRS, _PAIRS), side="left")
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        n = count[a:b]
        gene = np.repeat(np.arange(a, b), n)
        peak = order[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + begin[gene]]
        near = peaks.end[peak] > low[gene]
        if near.any():
            yield gene[near], peak[near]


def _largest(entries: NDArray[np.float64], shape: tuple[int, int]) -> sparse.csr_matrix:
    """Matrix of (row, column, value) entries; of several at one place the largest."""
    key = entries[:, 0].astype(np.int64) * shape[1] + entries[:, 1].astype(np.int64)
    order = np.argsort(key, kind="stable")
    key, value = key[order], entries[order, 2]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    value = np.maximum.reduceat(value, first).astype(np.float32)
    return sparse.csr_matrix((value, np.divmod(key[first], shape[1])), shape=shape)
