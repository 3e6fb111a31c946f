"""Gene activity: weighted sums of the counts of the peaks near each gene."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._arrays import sum_repeats
from muport._checks import check_flags, check_keys, check_numbers
from muport._global_state import preserve_generators
from muport.data import accept_data_names
from muport.data.reading._count_matrix import get_counts, iterate_blocks
from muport.pp._counts import writable_modality
from muport.pp._genomic_intervals import read_genes, read_peaks
from muport.pp._peak_gene_links import link_peaks_to_genes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

#: Biotypes of genes in the references of Cell Ranger.
BIOTYPES = ("protein_coding", "lncRNA")


@accept_data_names
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
    r"""Compute the activity of each gene as the weighted sum of the counts of the peaks near it.

    A peak has the weight :math:`\exp(-d/\tau)` for a gene, where d is the distance in bases between the peak and the
    transcription start site (with `body`: the gene). Only peaks that overlap the window from `upstream` bases before to
    `downstream` bases after it, in the direction of transcription, have a weight. Alternatively, the weights are read
    from ``varm``.

    Memory: the result, and a few thousand cells at a time. No matrix is made dense.

    Parameters
    ----------
    data
        AnnData with peak counts, or MuData with such a `modality`. The positions of peaks are read from the ``var``
        columns ``chrom``, ``start`` and ``end``, or else from names such as ``chr1:100-200``, ``chr1-100-200`` and
        ``chr1_100_200``.
    annotation
        Genes: path of a GTF or BED file (also ``.gz``), or a table with the columns chrom, start, end, strand and gene.
        Positions in a table are as in BED: counted from 0, end not included. None: use the weights in
        ``varm[link_key]``.
    upstream, downstream
        Number of bases before and after the transcription start site (with `body`: the gene) in the window.
    body
        Whether the window includes the whole gene.
    decay
        Distance :math:`\tau` in bases over which weights fall by a factor e. None: all weights are 1.
    biotypes
        Biotypes of the genes to use, if the annotation has biotypes. None: all.
    link_key
        Key of the weights (peaks x genes) in ``varm``. Gene names are in ``uns[f"{link_key}_genes"]``, or are the
        columns of a table. Read if `annotation` is None; else written, if `data` is a MuData.
    layer
        Layer with the counts. None: ``X``.
    key_added
        Name of the new modality in a MuData.
    modality
        Modality of a MuData with the peaks.
    copy
        Return a copy of a MuData with the results instead of writing into `data`.

    Returns
    -------
    For an AnnData: AnnData of cells x genes (sparse, float32) with the number of peaks of each gene in
    ``var["n_peaks"]``.
    For a MuData: None, or the copy; the activity is written to the modality `key_added`, without ``obs`` columns.

    Raises
    ------
    FileNotFoundError
        If the file of the annotation does not exist.
    KeyError
        If the modality, the layer, the weights or a column of the annotation does not exist.
    TypeError
        If the annotation is neither a path nor a table.
    ValueError
        If peaks have no positions, the annotation cannot be read, no peak is near a gene, values are not counts, or
        `data` is a view.

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
    check_numbers(0, 1e9, upstream=upstream, downstream=downstream)
    check_keys(key_added=key_added)
    check_flags(body=body)
    if decay is not None:
        check_numbers(1e-6, 1e12, decay=decay)
    data = data.copy() if copy and isinstance(data, mudata.MuData) else data
    peaks = writable_modality(data, modality)
    counts = get_counts(peaks, layer, (1, 1))
    if annotation is None:
        weights, names = read_gene_links(peaks, link_key)
    else:
        weights, names = link_peaks_to_genes(
            read_peaks(peaks),
            read_genes(annotation, biotypes),
            upstream=int(upstream),
            downstream=int(downstream),
            body=body,
            decay=decay,
        )
    activity = anndata.AnnData(
        multiply_in_blocks(counts, weights),
        obs=pd.DataFrame(index=peaks.obs_names),
        var=pd.DataFrame(
            {"n_peaks": np.bincount(weights.indices, minlength=weights.shape[1])},
            index=pd.Index(names.astype(object), name="gene"),
        ),
    )
    if not isinstance(data, mudata.MuData):
        activity.obs = peaks.obs.copy()
        return activity
    if annotation is not None:
        peaks.varm[link_key], peaks.uns[f"{link_key}_genes"] = weights, names.astype(object)
    add_modality(data, key_added, activity)
    return data if copy else None


def add_modality(data: mudata.MuData, name: str, adata: anndata.AnnData) -> None:
    """Add a modality to a MuData, or replace it."""
    with warnings.catch_warnings():
        # gene activities have the same names as genes
        warnings.filterwarnings("ignore", message=".*var_names are not unique")
        data.mod[name] = adata
        with preserve_generators():  # mudata draws random names of columns
            data.update()


def read_gene_links(peaks: anndata.AnnData, link_key: str) -> tuple[sparse.csr_matrix, NDArray[Any]]:
    """Read weights (peaks, genes) from ``varm``, and the names of the genes."""
    if link_key not in peaks.varm:
        raise KeyError(
            f"link_key={link_key!r} is not in varm, which has {sorted(peaks.varm.keys())}: pass an annotation of genes."
        )
    values = peaks.varm[link_key]
    names = values.columns if isinstance(values, pd.DataFrame) else peaks.uns.get(f"{link_key}_genes")
    if names is None:
        raise KeyError(
            f"uns[{link_key + '_genes'!r}] does not exist: it must hold the names of the genes of varm[{link_key!r}]."
        )
    weights = sum_repeats(sparse.csr_matrix(values, dtype=np.float32, copy=True))
    weights.eliminate_zeros()
    if weights.shape[1] != len(names):
        raise ValueError(f"varm[{link_key!r}] has {weights.shape[1]} columns, uns names {len(names)} genes.")
    if not np.isfinite(weights.data).all():
        raise ValueError(f"varm[{link_key!r}] holds values that are not finite.")
    return weights, np.asarray(names).astype(str)


def multiply_in_blocks(counts: Any, weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts (cells, features) times weights (features, genes), computed in blocks of cells."""
    return sparse.vstack([block @ weights for _, block in iterate_blocks(counts)], format="csr")
