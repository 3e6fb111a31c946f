"""From counts to what the models start from: representations, neighbours, a map, a pseudotime, a shared space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd

from muport.pp._counts import first_no_count
from muport.pp._peaks_and_proteins import Prepared, prepare_others
from muport.pp._pseudotime import check_arguments, diffusion_time, modality_of, unchanged_globals
from muport.pp._root_cell import read_root

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import anndata
    from numpy.typing import NDArray

#: Standardised values are cut off here, so that single genes of single cells do not make a component.
_MAX_SCALED = 10


def prepare(
    data: anndata.AnnData | mudata.MuData,
    *,
    n_top_genes: int = 2000,
    n_comps: int = 30,
    n_neighbors: int = 30,
    root_cluster: str | None = None,
    root_cell: str | int | None = None,
    root_marker: str | None = None,
    labels_key: str = "clusters",
    umap: bool = True,
    random_state: int = 0,
    modality: str = "rna",
    modalities: Mapping[str, str] | None = None,
    annotation: str | Path | pd.DataFrame | None = None,
    copy: bool = False,
) -> anndata.AnnData | mudata.MuData | None:
    """Take counts to representations: RNA by scanpy's usual steps, and in a MuData also peaks and proteins.

    RNA: ``normalize_total`` (to the median of the cells' counts), ``log1p``, ``highly_variable_genes``, ``scale`` (on a
    copy: ``X`` keeps the log values of all genes), ``pca`` of the variable genes, ``neighbors``, ``umap``, and, if a
    root is named, :func:`pseudotime`. The other modalities of a MuData keep their ``X``: peaks get ``obsm["X_lsi"]`` by
    :func:`iterative_lsi`, proteins ``layers["clr"]`` (log values less the cell's mean) and ``obsm["X_pca"]``. Where
    gene activity can be had (from `annotation`, or as :func:`shared_representation` finds it), RNA and peaks get
    ``obsm["X_shared"]``. A modality that has its representation already, or holds no counts, is left as it is unless
    `modalities` names it. All is computed before anything is written: data that are refused stay as they were.

    Memory: that of scanpy for RNA (about four times the counts), of :func:`iterative_lsi` and
    :func:`shared_representation`; proteins are made dense.

    Parameters
    ----------
    data
        AnnData of RNA counts, or MuData with a modality of such, in ``X``. Filter cells and genes first.
    n_top_genes
        Number of variable genes; all of them if there are fewer.
    n_comps
        Number of principal components of RNA and proteins; fewer if the data have fewer.
    n_neighbors
        Neighbours of a cell in the graphs; fewer if there are fewer cells.
    root_cluster, root_cell, root_marker, labels_key
        Root of the pseudotime, as in :func:`pseudotime`. Without a root there is no pseudotime.
    umap
        Whether to compute ``obsm["X_umap"]``.
    random_state
        Seed.
    modality
        Modality of a MuData that is RNA.
    modalities
        Modality of a MuData -> ``"rna"``, ``"atac"`` or ``"protein"``: these and no others are prepared. None: RNA is
        `modality`; others are recognised by ``var["feature_types"]`` (as of Cell Ranger), by names (``"atac"``,
        ``"peaks"``, ``"adt"``, ``"prot"``, ``"protein"``, ...), or by features like ``chr1:100-200``.
    annotation
        Genes, as in :func:`gene_activity`, for a modality ``"gene_activity"`` of a MuData.
    copy
        Return a prepared copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes ``X`` (log values), ``layers["counts"]`` (unless the layer is there already),
    ``var["highly_variable"]`` and the statistics of scanpy, ``var["std"]`` (by which variable genes are divided),
    ``obsm["X_pca"]``, ``varm["PCs"]``, ``uns["pca"]``, ``uns["log1p"]``, the graph of ``neighbors``,
    ``obsm["X_umap"]``, and ``obs["pseudotime"]``; in other modalities what is said above; and in ``uns["prepare"]`` of
    a MuData what was done with each modality, in words, which is also logged.

    Raises
    ------
    KeyError
        If a modality, or what the root names, is not there.
    TypeError
        If `modalities` is no mapping.
    ValueError
        If ``X`` holds no counts, cells have none, more than one root is named, more or less than one modality is RNA,
        the annotation does not fit, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> counts = np.random.default_rng(0).poisson(2.0, (50, 20)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> muport.pp.prepare(adata, n_comps=5, n_neighbors=10, umap=False)
    >>> adata.obsm["X_pca"].shape
    (50, 5)
    """
    if copy:
        data = data.copy()
    sizes = {"n_top_genes": n_top_genes, "n_comps": n_comps, "n_neighbors": n_neighbors}
    check_arguments(data, random_state=random_state, **sizes)
    others: Prepared | None = None
    if isinstance(data, mudata.MuData):
        modality, others = prepare_others(data, modality, modalities, annotation, n_comps, random_state)
    elif modalities is not None or annotation is not None:
        raise ValueError("modalities and annotation are for a MuData; data is an AnnData.")
    part = modality_of(data, modality) if isinstance(data, mudata.MuData) else data
    _check_counts(part)
    work = _normalised(part)
    roots: dict[str, Any] = {"cluster": root_cluster, "cell": root_cell, "marker": root_marker}
    # the levels of a marker are normalised values, of the same cells
    root = read_root(data, part, labels_key, modality, expression=work, **roots) if _any_named(roots) else None
    _reduce(work, n_top_genes, n_comps, n_neighbors, umap, random_state)
    if root is not None:
        found = diffusion_time(work.obsm["X_pca"], root, part.obs_names, n_neighbors, random_state)
        work.obs["pseudotime"], work.uns["pseudotime_root"] = found[0], str(part.obs_names[found[1]])
    _write(part, work)
    if others is not None and isinstance(data, mudata.MuData):
        others.write(data)
    return data if copy else None


def _any_named(roots: dict[str, Any]) -> bool:
    return any(value is not None for value in roots.values())


def _check_counts(part: anndata.AnnData) -> None:
    x: Any = part.X
    if x is None or part.n_obs < 4 or part.n_vars < 2:
        raise ValueError(f"X must hold the counts of at least 4 cells and 2 genes; the data are {part.shape}.")
    wrong = first_no_count(x)
    if wrong is not None:
        hint = "set X = layers['counts']" if "counts" in part.layers else "put the counts in X"
        raise ValueError(
            f"X holds {wrong:g}, which is no count: it seems to be normalised or logged already. Either {hint}, or go "
            "on from X with scanpy.pp.pca. Round counts that were corrected or estimated."
        )
    depth = np.asarray(x.sum(axis=1)).ravel()
    if (depth == 0).any():
        first = part.obs_names[int(np.flatnonzero(depth == 0)[0])]
        raise ValueError(
            f"{int((depth == 0).sum())} cells have no counts, for example {first!r}: leave them out with "
            "scanpy.pp.filter_cells."
        )


def _normalised(part: anndata.AnnData) -> anndata.AnnData:
    """Return log values of the cells and genes, and nothing else."""
    import anndata
    import scanpy as sc

    x: Any = part.X
    values = x.astype(np.float32)
    work = anndata.AnnData(values, obs=pd.DataFrame(index=part.obs_names), var=pd.DataFrame(index=part.var_names))
    # to the median: a target far above it makes the logs say little but whether a gene was seen
    sc.pp.normalize_total(work)
    sc.pp.log1p(work)
    return work


def _reduce(
    work: anndata.AnnData, n_top_genes: int, n_comps: int, n_neighbors: int, umap: bool, random_state: int
) -> None:
    import scanpy as sc

    with unchanged_globals():
        if work.n_vars > n_top_genes:
            sc.pp.highly_variable_genes(work, n_top_genes=n_top_genes)
        else:
            work.var["highly_variable"] = True
        chosen = work.var["highly_variable"].to_numpy()
        genes = work[:, chosen].copy()
        # PCA centres by itself; not to centre here keeps a sparse matrix sparse
        sc.pp.scale(genes, zero_center=False, max_value=_MAX_SCALED)
        sc.pp.pca(genes, min(n_comps, min(genes.shape) - 1), mask_var=None, random_state=random_state)
        _take_components(work, genes, chosen)
        sc.pp.neighbors(work, min(n_neighbors, work.n_obs - 1), use_rep="X_pca", random_state=random_state)
        if umap:
            sc.tl.umap(work, random_state=random_state)


def _take_components(work: Any, genes: Any, chosen: NDArray[np.bool_]) -> None:
    loadings = np.zeros((work.n_vars, genes.varm["PCs"].shape[1]), dtype=np.float32)
    loadings[chosen] = genes.varm["PCs"]
    work.varm["PCs"] = loadings
    work.obsm["X_pca"] = np.asarray(genes.obsm["X_pca"], dtype=np.float32)
    work.uns["pca"] = genes.uns["pca"]
    work.var["std"] = genes.var["std"].reindex(work.var_names)


def _write(part: anndata.AnnData, work: anndata.AnnData) -> None:
    if "counts" not in part.layers:
        part.layers["counts"] = part.X
    part.X = work.X
    for name in ("obs", "var", "obsm", "varm", "obsp", "uns"):
        target, source = getattr(part, name), getattr(work, name)
        for key in source.keys():
            target[key] = source[key]
