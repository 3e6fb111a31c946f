"""Preprocessing from counts: representations, neighbors, UMAP, pseudotime and a shared space."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from scipy import sparse

from muport._checks import check_integers, check_seed
from muport._global_state import preserve_generators
from muport.data import accept_data_names, check_writable, describe_graph, write_results
from muport.data.projection._recipe import ProjectionRecipe, store_recipe
from muport.data.reading._count_matrix import first_invalid_count, get_values
from muport.neighbors._fuzzy_graph import fuzzy_graph
from muport.pp._counts import get_modality
from muport.pp._modality_types import assay_of_anndata
from muport.pp._peaks_and_proteins import plan_modalities, prepare_alone, prepare_others
from muport.pp._variable_genes import highly_variable_genes, scale_columns
from muport.pp.cell_graphs._pseudotime import diffusion_time
from muport.pp.cell_graphs._root_cell import read_root
from muport.pp.components._principal_components import principal_components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import anndata
    from numpy.typing import NDArray

    from muport.pp.cell_graphs._root_cell import Root
    from muport.pp.components._principal_components import PrincipalComponents

#: Scaled values are clipped here, in standard deviations, so that a gene of a few cells does not form a component.
_MAX_SCALED_VALUE = 10


@accept_data_names
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
    umap: bool = False,
    random_state: int = 0,
    modality: str = "rna",
    modalities: Mapping[str, str] | None = None,
    annotation: str | Path | pd.DataFrame | None = None,
    copy: bool = False,
    progress: bool = True,
) -> anndata.AnnData | mudata.MuData | None:
    """Preprocess counts: RNA by the standard workflow of scanpy, and in a MuData also peaks and proteins.

    RNA: ``normalize_total`` (to the median of the cells' counts), ``log1p``, ``highly_variable_genes``, ``scale`` (on a
    copy, ``X`` keeps the log values of all genes), ``pca`` of the variable genes, ``neighbors``, ``umap`` if asked for,
    and :func:`pseudotime` if a root is given. The other modalities keep their ``X``. Peaks get
    ``obsm["X_lsi"]`` by :func:`iterative_lsi`. Proteins get centered log-ratios in ``layers["clr"]`` and
    ``obsm["X_pca"]``. RNA and peaks get ``obsm["X_shared"]`` by :func:`shared_representation` if there is an
    `annotation`, or if that function finds the gene activity in the data. A modality that already has its
    representation, or has no counts, is not changed unless `modalities` includes it. Proteins and peaks are also
    prepared without RNA. If an error occurs, `data` stays unchanged.

    Memory: for RNA that of scanpy (about four times the counts), for peaks that of :func:`iterative_lsi` and
    :func:`shared_representation`. Proteins are made dense.

    Parameters
    ----------
    data
        AnnData with counts in ``X``, or MuData with such modalities. Filter cells and genes first.
    n_top_genes
        Number of highly variable genes; all genes if there are fewer.
    n_comps
        Number of principal components of RNA and proteins; fewer if the data have fewer.
    n_neighbors
        Number of neighbors in the graphs; fewer if there are fewer cells.
    root_cluster, root_cell, root_marker, labels_key
        Root of the pseudotime, as in :func:`pseudotime`. Without a root there is no pseudotime.
    umap
        Whether to compute ``obsm["X_umap"]`` of RNA, which takes longer than all other steps. After an integration,
        compute the UMAP of its coordinates instead: ``model.write(adata)``, then ``sc.tl.umap(adata)``.
    random_state
        Seed.
    modality
        RNA modality of a MuData. Of an AnnData: ``"atac"`` or ``"protein"`` if it holds peaks or proteins and
        ``var["feature_types"]`` does not say so.
    modalities
        Modality of a MuData -> ``"rna"``, ``"atac"`` or ``"protein"``. Only these modalities are preprocessed. None:
        RNA is `modality`, and the types of the others are recognized by ``var["feature_types"]`` (as written by Cell
        Ranger), by their names (``"atac"``, ``"peaks"``, ``"adt"``, ``"prot"``, ``"protein"``, ...), or by feature
        names such as ``chr1:100-200``.
    annotation
        Genes as in :func:`gene_activity`; a MuData then gets a modality ``"gene_activity"``.
    copy
        Return a prepared copy and leave `data` as they are.
    progress
        Show the step that is computed, and the time it takes.

    Returns
    -------
    None, or the copy. Writes ``X`` (log values), ``layers["counts"]`` (unless the layer is there already),
    ``var["highly_variable"]`` and the statistics of scanpy, ``var["std"]`` (by which variable genes are divided),
    ``obsm["X_pca"]``, ``varm["PCs"]``, ``uns["pca"]``, ``uns["log1p"]``, the graph of ``neighbors``,
    ``obsm["X_umap"]``, and ``obs["pseudotime"]``; in other modalities the representations above; in
    ``uns["projections"]`` what :func:`project` needs for new cells; and in ``uns["prepare"]`` of a MuData a description
    of the steps for each modality, which is also logged.

    Raises
    ------
    KeyError
        If a modality, or the column, cell or marker of the root, does not exist.
    TypeError
        If `modalities` is not a mapping, or the counts are not in memory (read backed, or Dask).
    ValueError
        If ``X`` holds values that are not counts, cells have no counts, more than one root is given or one without RNA,
        several modalities are RNA, the annotation does not match the peaks, or `data` is a view.

    Examples
    --------
    >>> import anndata, muport, numpy as np
    >>> counts = np.random.default_rng(0).poisson(2.0, (50, 20)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> muport.pp.prepare(adata, n_comps=5, n_neighbors=10)
    >>> adata.obsm["X_pca"].shape
    (50, 5)
    """
    if copy:
        data = data.copy()
    check_integers(n_top_genes=n_top_genes, n_comps=n_comps)
    check_integers(2, n_neighbors=n_neighbors)
    check_seed(random_state)
    check_writable(data)
    if not isinstance(data, mudata.MuData) and (modalities is not None or annotation is not None):
        raise ValueError("modalities and annotation are for a MuData; data is an AnnData.")
    roots: dict[str, Any] = {"cluster": root_cluster, "cell": root_cell, "marker": root_marker}
    is_rooted = any(value is not None for value in roots.values())
    plan = plan_modalities(data, modality, modalities, annotation) if isinstance(data, mudata.MuData) else None
    assay = "rna" if isinstance(data, mudata.MuData) else assay_of_anndata(data, modality)
    name = plan.rna if plan is not None else modality if assay == "rna" else None
    if name is None and is_rooted:
        raise ValueError("a root needs RNA: call muport.pp.pseudotime afterwards, with use_rep.")
    with _step_display(progress) as show:
        show("log values")
        # the RNA is checked before peaks are reduced, which takes longest
        rna = None if name is None else _normalize(data, name, labels_key, roots if is_rooted else None)
        others = None
        if plan is not None:
            others = prepare_others(data, plan, annotation, n_comps, random_state, show)
        elif rna is None:
            others = prepare_alone(data, assay, n_comps, random_state, show)
        if rna is not None:
            recipe = _reduce(rna, n_top_genes, n_comps, n_neighbors, umap, random_state, show)
            _write(rna.adata, rna.work)
            store_recipe(rna.adata, "X_pca", recipe)
        if others is not None:
            others.write(data)
    return data if copy else None


@contextmanager
def _step_display(progress: bool) -> Iterator[Callable[[str], None]]:
    """Show the step that is computed, and the time since the start."""
    columns = (SpinnerColumn(), TextColumn("prepare: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda step: bar.update(task, description=step)


def _check_rna_counts(adata: anndata.AnnData) -> None:
    x: Any = adata.X
    if x is None or adata.n_obs < 4 or adata.n_vars < 2:
        raise ValueError(f"X must hold the counts of at least 4 cells and 2 genes; the data are {adata.shape}.")
    if not (sparse.issparse(x) or isinstance(x, np.ndarray)):
        raise TypeError(
            f"X is a {type(x).__name__}, but prepare needs the counts in memory: call to_memory() on the data first."
        )
    x = get_values(adata, None)
    value = first_invalid_count(x)
    if value is not None:
        hint = "set X = layers['counts']" if "counts" in adata.layers else "put the counts in X"
        raise ValueError(
            f"X holds {value:g}, which is not a count: the values seem to be normalized or logged already. Either "
            f"{hint}, or continue from X with scanpy.pp.pca. Round counts that were corrected or estimated."
        )
    depth = np.asarray(x.sum(axis=1)).ravel()
    if (depth == 0).any():
        first = adata.obs_names[int(np.flatnonzero(depth == 0)[0])]
        raise ValueError(
            f"{int((depth == 0).sum())} cells have no counts, for example {first!r}: remove them with "
            "scanpy.pp.filter_cells."
        )


@dataclass(frozen=True)
class _NormalizedRNA:
    """RNA after the first step.

    - `adata`: The data of the user.
    - `work`: Log-normalized values and names only.
    - `depth`: Counts of a cell after normalization.
    - `root`: Root of the pseudotime, if any.
    """

    adata: anndata.AnnData
    work: anndata.AnnData
    depth: float
    root: Root | None


def _normalize(
    data: anndata.AnnData | mudata.MuData, name: str, labels_key: str, root: dict[str, Any] | None
) -> _NormalizedRNA:
    """Check and normalize the counts of the RNA modality, and find the root, if any."""
    import anndata

    adata = get_modality(data, name) if isinstance(data, mudata.MuData) else data
    _check_rna_counts(adata)
    values = get_values(adata, None).astype(np.float32)
    depth = np.asarray(values.sum(axis=1)).ravel()
    # to the median: with a target far above it, log values would reflect mainly whether a gene was detected
    target = float(np.median(depth))
    values = _log_normalize(values, depth / target)
    work = anndata.AnnData(values, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names))
    work.uns["log1p"] = {"base": None}
    # the levels of a marker are read after normalization
    found = None if root is None else read_root(data, adata, labels_key, name, expression=work, **root)
    return _NormalizedRNA(adata, work, target, found)


def _log_normalize(values: Any, divisor: NDArray[np.float32] | NDArray[np.float64]) -> Any:
    """Return log(1 + counts / divisor of the cell), as scanpy, which compiles its ``normalize_total``."""
    factor = 1 / divisor.astype(np.float32)
    if not sparse.issparse(values):
        return np.log1p(values * factor[:, None])
    scaled = values.tocsr()
    scaled.data *= np.repeat(factor, np.diff(scaled.indptr))
    np.log1p(scaled.data, out=scaled.data)
    return scaled


def _reduce(
    rna: _NormalizedRNA,
    n_top_genes: int,
    n_comps: int,
    n_neighbors: int,
    umap: bool,
    random_state: int,
    show: Callable[[str], None],
) -> ProjectionRecipe:
    """Add the components, the graph, the UMAP and the pseudotime; return how new cells get the components.

    - `show`: Shows the name of a step.
    """
    work = rna.work
    with preserve_generators():
        show("variable genes")
        selected = _select_genes(work, n_top_genes)
        show("principal components of RNA")
        # PCA centers the values; without centering here a sparse matrix stays sparse
        values: Any = work.X
        scaled, std = scale_columns(values[:, selected], _MAX_SCALED_VALUE)
        components = principal_components(scaled, n_comps, random_state)
        _add_components(work, components, selected, std)
        show("neighbors")
        k = min(n_neighbors, work.n_obs - 1)
        graph = fuzzy_graph(components.coordinates, k, random_state)
        write_results(work, describe_graph(graph, "X_pca", random_state=random_state))
        if umap:
            import scanpy as sc

            show("UMAP")
            sc.tl.umap(work, random_state=random_state)
    if rna.root is not None:
        show("pseudotime")
        time, cell = diffusion_time(
            components.coordinates, rna.root, work.obs_names, n_neighbors, random_state, graph.connectivities
        )
        work.obs["pseudotime"], work.uns["pseudotime_root"] = time, str(work.obs_names[cell])
    return ProjectionRecipe(
        transform="log",
        features=tuple(map(str, work.var_names)),
        used=np.flatnonzero(selected),
        scale=1 / std,
        mean=np.asarray(scaled.mean(axis=0), np.float64).ravel(),
        loadings=components.loadings,
        offset=np.zeros(components.loadings.shape[1]),
        target=rna.depth,
        largest=float(_MAX_SCALED_VALUE),
    )


def _select_genes(work: anndata.AnnData, n_top_genes: int) -> NDArray[np.bool_]:
    """Return which genes are used, and write this and the statistics of scanpy to ``var``."""
    if work.n_vars <= n_top_genes:
        work.var["highly_variable"] = True
        return np.ones(work.n_vars, dtype=bool)
    table = highly_variable_genes(work.X, n_top_genes)
    for name, values in table.items():
        work.var[name] = values
    work.uns["hvg"] = {"flavor": "seurat"}
    return table["highly_variable"]


def _add_components(
    work: anndata.AnnData, components: PrincipalComponents, selected: NDArray[np.bool_], std: NDArray[np.float64]
) -> None:
    """Write the PCA of the selected genes; the loadings of the other genes are 0."""
    loadings = np.zeros((work.n_vars, components.loadings.shape[1]), dtype=np.float32)
    loadings[selected] = components.loadings
    work.varm["PCs"], work.obsm["X_pca"] = loadings, components.coordinates
    work.uns["pca"] = components.describe()
    work.var["std"] = pd.Series(std, work.var_names[selected]).reindex(work.var_names)


def _write(adata: anndata.AnnData, work: anndata.AnnData) -> None:
    if "counts" not in adata.layers:
        adata.layers["counts"] = adata.X
    adata.X = work.X
    for name in ("obs", "var", "obsm", "varm", "obsp", "uns"):
        target, source = getattr(adata, name), getattr(work, name)
        for key in source.keys():
            target[key] = source[key]
