"""Preprocessing: from counts to representations, a shared space of modalities, a UMAP, a pseudotime, and pseudobulk.

Files in the order of reading:

- ``_prepare``: all steps in one call
- ``_project``: new cells in the representations of prepared data
- ``_peaks_and_proteins``: the steps for the modalities other than RNA
- ``_modality_types``: which modality is RNA, ATAC or protein
- ``_counts``: modalities and counts, checked and read in blocks
- ``_variable_genes``: highly variable genes, and scaling, as in scanpy
- ``_lsi``: TF-IDF and latent semantic indexing by muon, and the projection of new cells
- ``_iterative_lsi``: latent semantic indexing in rounds, on peaks that differ between clusters
- ``_feature_selection``: peaks that are detected in every batch
- ``_gene_activity``: sums of the counts of the peaks near each gene
- ``_peak_gene_links``: the weights of peaks for genes
- ``_genomic_intervals``: positions of genes and peaks
- ``_shared_representation``: a shared space of RNA and gene activity
- ``_growth_scores``: expected growth rates from scores of gene sets
- ``components``: singular value decompositions of large sparse matrices
- ``cell_graphs``: a UMAP that new cells enter, and a pseudotime
- ``samples``: samples in place of cells
"""

from muport.pp._feature_selection import select_features
from muport.pp._gene_activity import gene_activity
from muport.pp._growth_scores import score_growth
from muport.pp._iterative_lsi import iterative_lsi
from muport.pp._lsi import lsi, project_lsi, tfidf
from muport.pp._prepare import prepare
from muport.pp._project import project
from muport.pp._shared_representation import shared_representation
from muport.pp.cell_graphs._pseudotime import pseudotime
from muport.pp.cell_graphs._umap import FittedUMAP, umap
from muport.pp.samples._pseudobulk import to_pseudobulk

__all__ = [
    "FittedUMAP",
    "gene_activity",
    "iterative_lsi",
    "lsi",
    "prepare",
    "project",
    "project_lsi",
    "pseudotime",
    "score_growth",
    "select_features",
    "shared_representation",
    "tfidf",
    "to_pseudobulk",
    "umap",
]
