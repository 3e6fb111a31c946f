"""Links from peaks to genes: an interval join by sorting, with weights that fall with distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.pp._genomic_intervals import Genes, Intervals

#: Number of pairs of a gene and a peak per block.
_BLOCK_PAIRS = 2**21


def link_peaks_to_genes(
    peaks: Intervals, genes: Genes, *, upstream: int, downstream: int, body: bool, decay: float | None
) -> tuple[sparse.csr_matrix, NDArray[np.str_]]:
    """Return weights (peaks, genes) of the peaks near each gene, and the names of the genes that have peaks.

    The target of a gene is its first base or, with `body`, the whole gene. A peak is linked to a gene if it overlaps
    the window from `upstream` bases before the target to `downstream` bases after it, in the direction of
    transcription. Its weight is exp(-d / decay), where d is the number of bases between peak and target (0 if they
    touch or overlap). If several genes have the same name, the nearest one gives the weight.

    - `peaks`, `genes`: Intervals. Chromosome names may start with ``"chr"`` or not.
    - `upstream`, `downstream`: Size of the window in bases.
    - `body`: Whether the target is the whole gene.
    - `decay`: Distance in bases over which a weight falls by a factor e. None: all weights are 1.
    """
    chrom_of_peak, chrom_of_gene = _chromosomes(peaks.chrom, genes.intervals.chrom)
    tss = np.where(genes.forward, genes.intervals.start, genes.intervals.end - 1)
    first = genes.intervals.start if body else tss
    last = genes.intervals.end if body else tss + 1
    low = first - np.where(genes.forward, upstream, downstream)
    high = last + np.where(genes.forward, downstream, upstream)
    column, names = pd.factorize(genes.name)
    entries = []
    for gene, peak in _overlaps(chrom_of_peak, peaks, chrom_of_gene, low, high):
        gap = np.maximum(np.maximum(first[gene] - peaks.end[peak], peaks.start[peak] - last[gene]), 0)
        weight = np.ones(len(gap)) if decay is None else np.exp(-gap / decay)
        entries.append(np.column_stack([peak, column[gene], weight]))
    if not entries:
        raise ValueError(f"no peak lies within {upstream} bases of a gene: are both of the same genome and assembly?")
    weights = _maximum_per_pair(np.concatenate(entries), (len(peaks), len(names)))
    linked = np.flatnonzero(np.diff(weights.tocsc().indptr))
    return weights[:, linked].tocsr(), np.asarray(names)[linked]


def _chromosomes(peaks: NDArray[np.str_], genes: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return codes of chromosomes, common to peaks and genes.

    Prefixes are removed also where some names agree: scaffolds have the same names in both spellings.
    """
    first, second = _strip_prefix(peaks), _strip_prefix(genes)
    names, code = np.unique(np.concatenate([first, second]), return_inverse=True)
    if not np.isin(np.unique(first), np.unique(second)).any():
        raise ValueError(
            f"no chromosome is in both: the peaks have {np.unique(peaks)[:3].tolist()}, the annotation "
            f"{np.unique(genes)[:3].tolist()}."
        )
    return code[: len(peaks)].astype(np.int64), code[len(peaks) :].astype(np.int64)


def _strip_prefix(names: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return chromosome names without ``chr``; the mitochondrial chromosome is MT."""
    unique, code = np.unique(names, return_inverse=True)
    stripped = np.array([name[3:] if name[:3].lower() == "chr" else name for name in unique])
    return np.where(stripped == "M", "MT", stripped)[code]


def _overlaps(
    chrom_of_peak: NDArray[np.int64],
    peaks: Intervals,
    chrom_of_gene: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs (gene, peak) on the same chromosome with peak.start < high and peak.end > low."""
    # chromosomes are concatenated with offsets so large that no window reaches into the next chromosome
    width = int(max(peaks.end.max(), high.max())) + 1
    position = chrom_of_peak * width + peaks.start
    order = np.argsort(position, kind="stable")
    sorted_position, longest = position[order], int((peaks.end - peaks.start).max())
    offset = chrom_of_gene * width
    # a peak that overlaps the window starts at most the length of the longest peak before it
    begin = np.searchsorted(sorted_position, offset + np.maximum(low - longest, 0), side="left")
    count = np.searchsorted(sorted_position, offset + high, side="left") - begin
    total = np.concatenate([[0], np.cumsum(count)])
    edges = np.searchsorted(total[:-1], np.arange(0, total[-1] + _BLOCK_PAIRS, _BLOCK_PAIRS), side="left")
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        n = count[a:b]
        gene = np.repeat(np.arange(a, b), n)
        peak = order[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + begin[gene]]
        overlaps = peaks.end[peak] > low[gene]
        if overlaps.any():
            yield gene[overlaps], peak[overlaps]


def _maximum_per_pair(entries: NDArray[np.float64], shape: tuple[int, int]) -> sparse.csr_matrix:
    """Return the sparse matrix of (row, column, value) entries, with the largest of several values of one pair."""
    key = entries[:, 0].astype(np.int64) * shape[1] + entries[:, 1].astype(np.int64)
    order = np.argsort(key, kind="stable")
    key, value = key[order], entries[order, 2]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    value = np.maximum.reduceat(value, first).astype(np.float32)
    return sparse.csr_matrix((value, np.divmod(key[first], shape[1])), shape=shape)
