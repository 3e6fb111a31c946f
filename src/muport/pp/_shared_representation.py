"""A shared space of RNA and gene activity: genes in both, standardized in each modality, projected on common axes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport._arrays import unit_rows
from muport._checks import check_integers, check_keys, check_option, check_seed
from muport.data import accept_data_names
from muport.data.projection._recipe import ProjectionRecipe, store_recipe
from muport.data.reading._count_matrix import counts_layer, first_invalid_count, get_counts, get_values
from muport.pp._counts import writable_modality
from muport.pp._gene_activity import multiply_in_blocks, read_gene_links
from muport.pp._variable_genes import highly_variable_genes
from muport.pp.components._standardized_pca import Standardized, canonical_axes, principal_axes

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

Method = Literal["pca", "cca"]

#: Smallest number of genes that both modalities must share.
_MIN_GENES = 5
#: An Ensembl identifier with its version.
_VERSION = re.compile(r"^(ENS[A-Z]*\d+)\.\d+$")


@dataclass(frozen=True, eq=False)
class GeneActivity:
    """The activity of genes in each cell, and what it was computed from.

    - `values`: (n, g) activity.
    - `genes`: (g,) names.
    - `links`: (p, g) weights of features by which counts become activities; None if the activities were given.
    - `features`: (p,) names of these features; those of the genes without links.
    - `source`: Modality that holds the features, if it is another one than that of the peaks.
    - `is_projectable`: Whether the activity of new cells can be computed from counts.
    """

    values: Any
    genes: NDArray[np.str_]
    links: sparse.csr_matrix | None = None
    features: NDArray[np.str_] | None = None
    source: str = ""
    is_projectable: bool = True


@dataclass(frozen=True)
class SharedSpace:
    """Coordinates (n_rna, k) and (n_atac, k), the genes used, and a description of the space in words.

    - `rna_recipe`, `atac_recipe`: How new cells get the coordinates; None if their activity has no counts.
    """

    rna: NDArray[np.float32]
    atac: NDArray[np.float32]
    genes: NDArray[np.str_]
    description: str
    rna_recipe: ProjectionRecipe
    atac_recipe: ProjectionRecipe | None


@accept_data_names
def shared_representation(
    data: mudata.MuData,
    rna: str = "rna",
    atac: str = "atac",
    *,
    activity: str | None = None,
    method: Method = "pca",
    n_comps: int = 30,
    n_top_genes: int = 2000,
    key_added: str = "X_shared",
    random_state: int = 0,
    copy: bool = False,
) -> mudata.MuData | None:
    r"""Compute a shared space of RNA and gene activity, as the `shared_rep` of :class:`muport.Integration`.

    The two modalities need no cells in common. Genes are matched by name: versions of Ensembl identifiers are removed,
    case is ignored if this at least doubles the number of shared genes, and features with the same name are summed.
    Counts are normalized to the median depth of the modality and log-transformed. Each gene is scaled to mean 0 and
    standard deviation 1 within each modality, which removes offsets and scales of a modality. Let A (RNA) and B
    (activity) be the resulting values, cells x genes:

    - ``"pca"``: V are the eigenvectors of :math:`A^\top A / n_A + B^\top B / n_B` with the largest eigenvalues, and the
      coordinates of cells are A V and B V. Both modalities have the same weight.
    - ``"cca"``: all rows are scaled to length 1, and :math:`A B^\top \approx U S V^\top`; the coordinates of cells are
      the rows of U S and V S, scaled to length 1. These axes capture variation that both modalities share, and no
      variation of one modality alone.

    Memory: three times the counts of the shared genes, sparse. Only cells x `n_comps` values are dense.

    Parameters
    ----------
    data
        MuData with counts of RNA and of peaks, in ``layers["counts"]`` or else ``X``.
    rna, atac
        Names of the modalities.
    activity
        Source of the gene activity: a modality, an ``obsm`` key of `atac` (with gene names in
        ``uns[f"{activity}_genes"]`` or as columns of a table), or a ``varm`` key of weights as in
        :func:`gene_activity`. None: the first that exists of the modality ``"gene_activity"``, the ``obsm`` key
        ``"gene_activity"`` and the ``varm`` key ``"gene_link"``; else the counts of `atac`, whose features must then be
        named like genes.
    method
        ``"pca"`` or ``"cca"``.
    n_comps
        Number of dimensions; fewer if there are fewer shared genes or cells.
    n_top_genes
        Number of genes: the shared genes that vary most in RNA.
    key_added
        Key of ``obsm`` to write.
    random_state
        Seed.
    copy
        Return a copy with the results instead of writing into `data`.

    Returns
    -------
    None, or the copy. Writes ``obsm[key_added]`` (cells x dimensions, float32) to both modalities,
    ``uns[f"{key_added}_genes"]`` to RNA, and to ``uns["projections"]`` what :func:`project` needs for new cells.

    Raises
    ------
    KeyError
        If a modality or the activity does not exist.
    TypeError
        If `data` is not a MuData, or `key_added` is no string.
    ValueError
        If fewer than 5 genes are shared, values are not counts, or `data` is a view.

    Examples
    --------
    >>> import muport
    >>> mdata = muport.datasets.simulated_multiome(n_cells=80)
    >>> muport.pp.shared_representation(mdata, n_comps=5)
    >>> mdata["rna"].obsm["X_shared"].shape[1] == mdata["atac"].obsm["X_shared"].shape[1] == 5
    True
    """
    if not isinstance(data, mudata.MuData):
        raise TypeError(f"data is a {type(data).__name__}: a shared space needs a MuData of two modalities.")
    check_integers(n_comps=n_comps, n_top_genes=n_top_genes)
    check_seed(random_state)
    check_option("method", method, ("pca", "cca"))
    check_keys(key_added=key_added)
    data = data.copy() if copy else data
    genes, peaks = writable_modality(data, rna), writable_modality(data, atac)
    space = compute_shared_space(
        genes, read_activity(data, peaks, activity), method, n_comps, n_top_genes, random_state
    )
    genes.obsm[key_added], peaks.obsm[key_added] = space.rna, space.atac
    genes.uns[f"{key_added}_genes"] = space.genes.astype(object)
    store_recipe(genes, key_added, space.rna_recipe)
    if space.atac_recipe is not None:
        store_recipe(peaks, key_added, space.atac_recipe)
    return data if copy else None


def read_activity(data: mudata.MuData, atac: anndata.AnnData, key: str | None) -> GeneActivity:
    """Find the gene activity of the cells of `atac`."""
    name = key or "gene_activity"
    if name in data.mod:
        activity = data.mod[name]
        rows = activity.obs_names.get_indexer(atac.obs_names)
        if (rows < 0).any():
            cell = atac.obs_names[int(np.flatnonzero(rows < 0)[0])]
            raise ValueError(f"modality {name!r} lacks {int((rows < 0).sum())} cells, for example {cell!r}.")
        return GeneActivity(get_values(activity, None)[rows], np.asarray(activity.var_names, dtype=str), source=name)
    if name in atac.obsm:
        values: Any = atac.obsm[name]
        is_table = isinstance(values, pd.DataFrame)
        genes = values.columns if is_table else atac.uns.get(f"{name}_genes")
        if genes is None or len(genes) != values.shape[1]:
            raise KeyError(f"uns['{name}_genes'] must name the {values.shape[1]} genes of obsm[{name!r}].")
        values = values.to_numpy() if is_table else values
        return GeneActivity(values, np.asarray(genes).astype(str), is_projectable=False)
    if (key or "gene_link") in atac.varm:
        weights, genes = read_gene_links(atac, key or "gene_link")
        counts = get_counts(atac, counts_layer(atac), (1, 1))
        return link_activity(counts, np.asarray(atac.var_names, dtype=str), weights, genes)
    if key is not None:
        raise KeyError(f"activity={key!r} is neither a modality ({list(data.mod)}) nor in obsm or varm of the peaks.")
    return GeneActivity(get_values(atac, counts_layer(atac)), np.asarray(atac.var_names, dtype=str))


def link_activity(
    counts: Any, features: NDArray[np.str_], weights: sparse.csr_matrix, genes: NDArray[np.str_]
) -> GeneActivity:
    """Compute the gene activity from counts (n, p) and the weights (p, g) of their features."""
    return GeneActivity(multiply_in_blocks(counts, weights), genes, weights, features)


def compute_shared_space(
    rna: anndata.AnnData,
    activity: GeneActivity,
    method: Method,
    n_comps: int,
    n_top_genes: int,
    random_state: int,
) -> SharedSpace:
    """Compute the coordinates of both modalities; see :func:`shared_representation`.

    - `rna`: Cells with RNA counts.
    - `activity`: Gene activity of the other cells.
    """
    counts, values = get_counts(rna, counts_layer(rna)), activity.values
    in_memory = sparse.issparse(values) or isinstance(values, np.ndarray)
    invalid = first_invalid_count(values, integers=False) if in_memory else None
    if invalid is not None:
        raise ValueError(
            f"the gene activity holds {invalid:g}: it must be counts, or sums of counts with weights above 0."
        )
    rna_features = np.asarray(rna.var_names, dtype=str)
    genes, rna_position, activity_position = match_genes(rna_features, activity.genes)
    rna_genes = _indicate_genes(rna_position, len(genes))
    activity_genes = _indicate_genes(activity_position, len(genes))
    a, rna_depth = _log_normalize(multiply_in_blocks(counts, rna_genes))
    b, activity_depth = _log_normalize(multiply_in_blocks(values, activity_genes))
    variable = _variable_genes(a, b, n_top_genes)
    genes, first, second = genes[variable], Standardized.of(a[:, variable]), Standardized.of(b[:, variable])
    k = min(n_comps, len(genes) - 1, a.shape[0] - 1, b.shape[0] - 1)
    description = f"{len(genes)} shared genes, {method.upper()} of {k} dimensions"
    if method == "pca":
        rna_axes = activity_axes = principal_axes(first, second, k, random_state)
        x, y = first.dot(rna_axes), second.dot(activity_axes)
    else:
        first, second = first.with_unit_rows(), second.with_unit_rows()
        rna_axes, activity_axes = canonical_axes(first, second, k, random_state)
        x, y = unit_rows(first.dot(rna_axes)), unit_rows(second.dot(activity_axes))
    recipe = _SharedRecipe(variable, unit=method == "cca")
    linked = activity_genes if activity.links is None else activity.links @ activity_genes
    features = activity.genes if activity.features is None else activity.features
    return SharedSpace(
        x.astype(np.float32),
        y.astype(np.float32),
        genes,
        description,
        recipe.of(rna_features, rna_genes, first, rna_axes, rna_depth, ""),
        recipe.of(features, linked, second, activity_axes, activity_depth, activity.source)
        if activity.is_projectable
        else None,
    )


@dataclass(frozen=True, eq=False)
class _SharedRecipe:
    """What the recipes of both modalities have in common.

    - `variable`: Positions of the genes that are used, among the shared ones.
    - `unit`: Whether values and coordinates of a cell have length 1.
    """

    variable: NDArray[np.int64]
    unit: bool

    def of(
        self,
        features: NDArray[np.str_],
        links: sparse.csr_matrix,
        standardized: Standardized,
        axes: NDArray[Any],
        depth: float,
        source: str,
    ) -> ProjectionRecipe:
        """Return the recipe of one modality, without the features that are linked to no shared gene."""
        links = sparse.csr_matrix(links, dtype=np.float64)
        linked = np.flatnonzero(np.diff(links.indptr))
        links = links[linked]
        return ProjectionRecipe(
            transform="log",
            features=tuple(map(str, features[linked])),
            used=self.variable,
            scale=standardized.inverse,
            mean=standardized.mean * standardized.inverse,
            loadings=np.asarray(axes, np.float32),
            offset=np.zeros(axes.shape[1]),
            target=depth,
            unit_values=self.unit,
            unit_coordinates=self.unit,
            link_weight=links.data,
            link_column=links.indices.astype(np.int64),
            link_start=links.indptr.astype(np.int64),
            source=source,
        )


def match_genes(
    first: NDArray[np.str_], second: NDArray[np.str_]
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Return the shared names in the order of the first, and the position of each feature among them (-1: none)."""
    a, b = (pd.Index([_VERSION.sub(r"\1", str(name)) for name in names]) for names in (first, second))
    upper_a, upper_b = (index.str.upper() for index in (a, b))
    if len(upper_a.unique().intersection(upper_b)) >= 2 * max(len(a.unique().intersection(b)), 1):
        a, b = upper_a, upper_b
    shared = a.unique()[a.unique().isin(b)]
    if len(shared) < _MIN_GENES:
        raise ValueError(
            f"{len(shared)} genes are shared, fewer than {_MIN_GENES}: RNA has {list(first[:3])}, the activity "
            f"{list(second[:3])}. Use the same names in both, or call muport.pp.gene_activity with an annotation."
        )
    positions = (shared.get_indexer(index).astype(np.int64) for index in (a, b))
    return np.asarray(shared, dtype=str), *positions


def _indicate_genes(position: NDArray[np.int64], n: int) -> sparse.csr_matrix:
    """Return (features, n) ones at the gene of each feature; a product with it sums the features of each gene."""
    shared = np.flatnonzero(position >= 0)
    return sparse.csr_matrix(
        (np.ones(len(shared), np.float32), (shared, position[shared])), shape=(len(position), n), dtype=np.float32
    )


def _log_normalize(x: sparse.csr_matrix) -> tuple[sparse.csr_matrix, float]:
    """Return log(1 + counts) in float64, and the median depth of cells with counts, to which they are normalized."""
    x = x.astype(np.float64)
    depth = np.asarray(x.sum(axis=1)).ravel()
    median = np.median(depth[depth > 0]) if (depth > 0).any() else 1.0
    x.data *= np.repeat(median / np.where(depth > 0, depth, 1), np.diff(x.indptr))
    np.log1p(x.data, out=x.data)
    return x, float(median)


def _variable_genes(a: sparse.csr_matrix, b: sparse.csr_matrix, n: int) -> NDArray[np.int64]:
    """Return the genes that vary in both; if there are more than `n`, the most variable of the first by scanpy."""
    varying = np.flatnonzero((Standardized.of(a).inverse > 0) & (Standardized.of(b).inverse > 0))
    if len(varying) < _MIN_GENES:
        raise ValueError(f"{len(varying)} shared genes vary in both modalities, fewer than {_MIN_GENES}.")
    if len(varying) <= n:
        return varying
    selected: NDArray[np.int64] = varying[highly_variable_genes(a[:, varying], n)["highly_variable"]]
    return selected
