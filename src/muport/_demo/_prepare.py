"""A space that RNA and ATAC share: genes, and the activity of genes, on the same principal axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import scanpy as sc
from scipy import sparse
from sklearn.decomposition import PCA

if TYPE_CHECKING:
    import mudata
    from numpy.typing import NDArray


def add_shared_space(mdata: mudata.MuData, n_comps: int = 30) -> None:
    """Add ``obsm["X_shared"]`` to RNA and ATAC.

    The activity of a gene in a cell is the sum of the peaks linked to it. Both sides are depth-normalised, logged and
    brought to mean 0 and standard deviation 1 gene by gene, each by its own statistics; the axes are those of the RNA.

    Parameters
    ----------
    mdata
        Counts in ``rna`` and ``atac``; ``atac.varm["gene_link"]`` (peaks x genes) with the genes' names in
        ``atac.uns["gene_link_genes"]``.
    n_comps
        Number of principal axes.
    """
    rna, atac = mdata["rna"], mdata["atac"]
    link = sparse.csr_matrix(atac.varm["gene_link"])
    column = {str(gene): i for i, gene in enumerate(atac.uns["gene_link_genes"])}
    linked = np.asarray(link.sum(axis=0)).ravel() > 0
    genes = [gene for gene in rna.var_names if gene in column and linked[column[gene]]]
    activity = sparse.csr_matrix(atac.X) @ link[:, [column[gene] for gene in genes]]
    expressed = _standardised(rna[:, genes].X)
    axes = PCA(min(n_comps, len(genes) - 1), svd_solver="covariance_eigh").fit(expressed)
    rna.obsm["X_shared"] = axes.transform(expressed).astype(np.float32)
    atac.obsm["X_shared"] = axes.transform(_standardised(activity)).astype(np.float32)


def _standardised(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    cells = anndata.AnnData(counts.copy())
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    values: NDArray[np.float32] = np.asarray(sparse.csr_matrix(cells.X).toarray(), dtype=np.float32)
    spread = values.std(axis=0)
    values -= values.mean(axis=0)
    values /= np.where(spread > 0, spread, np.float32(1))
    return values
