"""Gene activity: the counts of the peaks near a gene, as one sparse product."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.pp._counts import blocks, check_numbers, counts_of, part_of
from muport.pp._genomic_intervals import genes_of, peaks_of
from muport.pp._peak_gene_links import link

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

#: Kinds of genes that Cell Ranger's references keep.
BIOTYPES = ("protein_coding", "lncRNA")


def gene_activity(
    data: anndata.AnnData | mudata.MuData,
    annotation: str | Path | pd.DataFrame | None = None,
    *,
    upstream: int = 2000,
    downstream: int = 0,
    body: bool = False,
    decay: float | None = 2000.0,
    biotypes: Sequence[str] | None = BIOTYPES,
    link_key: str = "gene_link",
    layer: str | None = None,
    key_added: str = "gene_activity",
    modality: str = "atac",
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    r"""Sum, for every gene, the counts of the peaks near it: activity = counts x weights.

    A peak weighs :math:`\exp(-d/\tau)` for a gene, d the bases between the peak and the gene's first base (with `body`:
    the gene), if it overlaps the stretch from `upstream` bases before that to `downstream` bases after, as the gene is
    read on its strand. Or the weights are given, as a matrix in ``varm``.

    Memory: the result, and a few thousand cells at a time; nothing is made dense.

    Parameters
    ----------
    data
        AnnData of peak counts, or MuData with such a `modality`. Peaks lie where ``var`` columns ``chrom``, ``start``
        and ``end`` say, or else their names: ``chr1:100-200``, ``chr1-100-200``, ``chr1_100_200``.
    annotation
        Genes: path of a GTF or BED file (also ``.gz``), or a table with the columns chrom, start, end, strand and gene
        (positions as in BED: counted from 0, the end not included). None: the weights of ``varm[link_key]``.
    upstream, downstream
        Bases before and after the first base of a gene (or the gene, with `body`) that count.
    body
        Count the whole gene too.
    decay
        Bases in which weights fall by a factor e, :math:`\tau`. None: weights are 1.
    biotypes
        Kinds of genes that are kept, where the annotation tells kinds. None: all.
    link_key
        Key of weights (peaks x genes) in ``varm``; their genes are in ``uns[f"{link_key}_genes"]``, or are the columns
        if it is a table. Read without an annotation; with one, and a MuData, written.
    layer
        Layer of the counts. None: ``X``.
    key_added
        Name of the new modality of a MuData.
    modality
        Modality of a MuData that has the peaks.
    copy
        Return a changed copy of a MuData and leave `data` as they are.

    Returns
    -------
    AnnData of cells x genes (sparse, float32) with ``var["n_peaks"]``, the number of peaks of a gene, if `data` are
    AnnData. Of a MuData None, or the copy: it has that as modality `key_added`, without ``obs`` columns.

    Raises
    ------
    FileNotFoundError
        If the annotation's file does not exist.
    KeyError
        If the modality, the layer, the weights or a column of the annotation is not there.
    TypeError
        If the annotation is of another kind.
    ValueError
        If peaks have no place, the annotation cannot be read, nothing is near a gene, values are no counts, or `data`
        is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np, pandas as pd
    >>> peaks = pd.DataFrame(index=["chr1:900-1100", "chr1:2500-2600", "chr1:7000-7200"])
    >>> atac = anndata.AnnData(np.array([[1, 1, 0], [0, 2, 1.0], [1, 0, 1], [1, 1, 1]]), var=peaks)
    >>> genes = pd.DataFrame({"chrom": "chr1", "start": [1000, 5000], "end": [2000, 7000], "strand": ["+", "-"]})
    >>> genes["gene"] = ["A", "B"]
    >>> muport.pp.gene_activity(atac, genes).to_df().round(2).to_numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    check_numbers(upstream=(upstream, 0, 1e9), downstream=(downstream, 0, 1e9))
    if decay is not None:
        check_numbers(decay=(decay, 1e-6, 1e12))
    data = data.copy() if copy and isinstance(data, mudata.MuData) else data
    part = part_of(data, modality)
    counts = counts_of(part, layer, (1, 1))
    if annotation is None:
        weights, names = given_links(part, link_key)
    else:
        weights, names = link(
            peaks_of(part),
            genes_of(annotation, biotypes),
            upstream=int(upstream),
            downstream=int(downstream),
            body=body,
            decay=decay,
        )
    found = _activity(part, counts, weights, names)
    if not isinstance(data, mudata.MuData):
        found.obs = part.obs.copy()
        return found
    if annotation is not None:
        part.varm[link_key], part.uns[f"{link_key}_genes"] = weights, names.astype(object)
    add_modality(data, key_added, found)
    return data if copy else None


def add_modality(data: mudata.MuData, name: str, part: anndata.AnnData) -> None:
    """Put a modality into a MuData, or replace it."""
    with warnings.catch_warnings():
        # the activity of a gene is named like the gene
        warnings.filterwarnings("ignore", message=".*var_names are not unique")
        data.mod[name] = part
        data.update()


def given_links(part: anndata.AnnData, link_key: str) -> tuple[sparse.csr_matrix, NDArray[Any]]:
    """Read weights (peaks, genes) from ``varm``, and the names of the genes."""
    if link_key not in part.varm:
        raise KeyError(
            f"link_key={link_key!r} is not in varm, which has {sorted(part.varm.keys())}: pass an annotation of genes."
        )
    held = part.varm[link_key]
    names = held.columns if isinstance(held, pd.DataFrame) else part.uns.get(f"{link_key}_genes")
    if names is None:
        raise KeyError(
            f"uns[{link_key + '_genes'!r}] is not there: put the names of the genes of varm[{link_key!r}] in it."
        )
    weights = sparse.csr_matrix(held, dtype=np.float32)
    if weights.shape[1] != len(names):
        raise ValueError(f"varm[{link_key!r}] has {weights.shape[1]} columns, uns names {len(names)} genes.")
    if not np.isfinite(weights.data).all():
        raise ValueError(f"varm[{link_key!r}] holds values that are not finite.")
    return weights, np.asarray(names).astype(str)


def activity_of(counts: Any, weights: sparse.csr_matrix, names: NDArray[Any]) -> tuple[sparse.csr_matrix, NDArray[Any]]:
    """Counts times weights (cells, genes), in blocks of cells, with the names of the genes."""
    return sparse.vstack([block @ weights for _, block in blocks(counts)], format="csr"), names


def _activity(part: anndata.AnnData, counts: Any, weights: sparse.csr_matrix, names: NDArray[Any]) -> anndata.AnnData:
    x, names = activity_of(counts, weights, names)
    n_peaks = np.bincount(weights.indices, minlength=weights.shape[1])
    return anndata.AnnData(
        x,
        obs=pd.DataFrame(index=part.obs_names),
        var=pd.DataFrame({"n_peaks": n_peaks}, index=pd.Index(names.astype(object), name="gene")),
    )
