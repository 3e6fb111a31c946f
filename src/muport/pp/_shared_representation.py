"""One space for RNA and gene activity: the same genes, each modality standardised by itself, common axes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.pp._counts import blocks, check_integers, counts_of, first_no_count, matrix_of, part_of
from muport.pp._gene_activity import activity_of, given_links
from muport.pp._standardized_pca import Standardised, canonical_axes, principal_axes

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

Method = Literal["pca", "cca"]

#: Names that both modalities must at least have.
_FEWEST = 5
_VERSION = re.compile(r"^(ENS[A-Z]*\d+)\.\d+$")


@dataclass(frozen=True)
class Shared:
    """Coordinates (n_rna, k) and (n_atac, k), the genes behind them, and how they were found, in words."""

    rna: NDArray[np.float32]
    atac: NDArray[np.float32]
    genes: NDArray[np.str_]
    told: str


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
    r"""Put RNA and gene activity in one space, for ``Integration``'s `shared_rep`. No cell need be in both.

    Genes are matched by name (versions of Ensembl identifiers are left out; case is ignored where that at least doubles
    the genes found; features of one name are summed). Counts are normalised to the median depth of the modality, and
    logged; every gene is scaled to mean 0 and standard deviation 1 in each modality by itself, so that what all genes
    of a modality have in common falls away. Of the values A (RNA) and B (activity), cells x genes:

    - ``"pca"``: the axes V of the largest eigenvalues of :math:`A^\top A / n_A + B^\top B / n_B`; cells at A V and B V.
      Neither modality leads, and a new cell's place is a plain product.
    - ``"cca"``: with all rows scaled to length 1, :math:`A B^\top \approx U S V^\top`; cells at the rows of U S and
      V S, scaled to length 1. The axes are what varies in both; what only one modality tells is lost.

    Memory: the counts of the shared genes, three times, sparse; nothing is made dense but cells x `n_comps`.

    Parameters
    ----------
    data
        MuData with counts of RNA (``layers["counts"]``, or else ``X``), and peaks.
    rna, atac
        Names of the modalities.
    activity
        Where the activity is: a modality, an ``obsm`` key of `atac` (names in ``uns[f"{activity}_genes"]``, unless it
        is a table), or a ``varm`` key as in :func:`gene_activity`. None: the first there is of ``"gene_activity"``
        (modality, ``obsm``), ``"gene_link"`` (``varm``), and the counts of `atac` themselves, named like genes.
    method
        ``"pca"`` or ``"cca"``.
    n_comps
        Dimensions; fewer if there are fewer shared genes or cells.
    n_top_genes
        Genes: the most variable of RNA, among the shared ones.
    key_added
        ``obsm`` key that is written.
    random_state
        Seed.
    copy
        Return a changed copy and leave `data` as they are.

    Returns
    -------
    None, or the copy. Writes ``obsm[key_added]`` (cells x dimensions, float32) in both modalities, and
    ``uns[f"{key_added}_genes"]`` in that of RNA.

    Raises
    ------
    KeyError
        If a modality, or the activity, is not there.
    TypeError
        If `data` is no MuData.
    ValueError
        If fewer than 5 genes are shared, values are no counts, or `data` is a view.

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
    check_integers(n_comps=n_comps, n_top_genes=n_top_genes, random_state=random_state)
    if method not in ("pca", "cca"):
        raise ValueError(f"method={method!r} must be 'pca' or 'cca'.")
    data = data.copy() if copy else data
    first, second = part_of(data, rna), part_of(data, atac)
    found = share(first, find_activity(data, second, activity), method, n_comps, n_top_genes, random_state)
    first.obsm[key_added], second.obsm[key_added] = found.rna, found.atac
    first.uns[f"{key_added}_genes"] = found.genes.astype(object)
    return data if copy else None


def find_activity(data: mudata.MuData, atac: anndata.AnnData, key: str | None) -> tuple[Any, NDArray[np.str_]]:
    """Activity (cells of `atac`, genes), and the names of the genes."""
    if (key or "gene_activity") in data.mod:
        held = data.mod[key or "gene_activity"]
        rows = held.obs_names.get_indexer(atac.obs_names)
        if (rows < 0).any():
            cell = atac.obs_names[int(np.flatnonzero(rows < 0)[0])]
            raise ValueError(
                f"modality {key or 'gene_activity'!r} lacks {int((rows < 0).sum())} cells, such as {cell!r}."
            )
        return matrix_of(held, None)[rows], np.asarray(held.var_names, dtype=str)
    if (key or "gene_activity") in atac.obsm:
        return _from_obsm(atac, key or "gene_activity")
    if (key or "gene_link") in atac.varm:
        return activity_of(counts_of(atac, _layer(atac), (1, 1)), *given_links(atac, key or "gene_link"))
    if key is not None:
        raise KeyError(f"activity={key!r} is no modality ({list(data.mod)}), and not in obsm or varm of the peaks.")
    return matrix_of(atac, _layer(atac)), np.asarray(atac.var_names, dtype=str)


def _from_obsm(atac: anndata.AnnData, key: str) -> tuple[Any, NDArray[np.str_]]:
    held: Any = atac.obsm[key]
    names = held.columns if isinstance(held, pd.DataFrame) else atac.uns.get(f"{key}_genes")
    if names is None or len(names) != held.shape[1]:
        raise KeyError(f"uns['{key}_genes'] must name the {held.shape[1]} genes of obsm[{key!r}].")
    return held.to_numpy() if isinstance(held, pd.DataFrame) else held, np.asarray(names).astype(str)


def _layer(part: anndata.AnnData) -> str | None:
    return "counts" if "counts" in part.layers else None


def share(
    rna: anndata.AnnData,
    activity: tuple[Any, NDArray[np.str_]],
    method: Method,
    n_comps: int,
    n_top_genes: int,
    random_state: int,
) -> Shared:
    """Coordinates of both modalities; see :func:`shared_representation`."""
    x, other = counts_of(rna, _layer(rna), (4, 2)), activity[0]
    wrong = first_no_count(other, whole=False) if sparse.issparse(other) or isinstance(other, np.ndarray) else None
    if wrong is not None:
        raise ValueError(
            f"the gene activity holds {wrong:g}: it must be counts, or sums of counts with weights above 0."
        )
    names, left, right = matched(np.asarray(rna.var_names, dtype=str), activity[1])
    a, b = _log(_summed(x, left, len(names))), _log(_summed(other, right, len(names)))
    chosen = _variable(a, b, n_top_genes)
    names, first, second = names[chosen], Standardised.of(a[:, chosen]), Standardised.of(b[:, chosen])
    k = min(n_comps, len(names) - 1, a.shape[0] - 1, b.shape[0] - 1)
    told = f"{len(names)} shared genes, {method.upper()} of {k} dimensions"
    if method == "pca":
        axes = principal_axes(first, second, k, random_state)
        return Shared(first.dot(axes).astype(np.float32), second.dot(axes).astype(np.float32), names, told)
    first, second = first.unit(), second.unit()
    left_axes, right_axes = canonical_axes(first, second, k, random_state)
    return Shared(_unit(first.dot(left_axes)), _unit(second.dot(right_axes)), names, told)


def _unit(z: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows scaled to length 1."""
    unit: NDArray[np.float32] = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-300)).astype(np.float32)
    return unit


def matched(
    first: NDArray[np.str_], second: NDArray[np.str_]
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Names in both, in the order of the first, and for each feature the position among them (-1: not shared).

    Raises
    ------
    ValueError
        If fewer than 5 names are shared.
    """
    a, b = (pd.Index([_VERSION.sub(r"\1", str(name)) for name in names]) for names in (first, second))
    loose_a, loose_b = (index.str.upper() for index in (a, b))
    if len(loose_a.unique().intersection(loose_b)) >= 2 * max(len(a.unique().intersection(b)), 1):
        a, b = loose_a, loose_b
    both = a.unique()[a.unique().isin(b)]
    if len(both) < _FEWEST:
        raise ValueError(
            f"{len(both)} genes are shared, fewer than {_FEWEST}: RNA has {list(first[:3])}, the activity "
            f"{list(second[:3])}. Name both alike, or call muport.pp.gene_activity with an annotation."
        )
    return np.asarray(both, dtype=str), both.get_indexer(a).astype(np.int64), both.get_indexer(b).astype(np.int64)


def _summed(x: Any, position: NDArray[np.int64], n: int) -> sparse.csr_matrix:
    """Columns of `x` added up at their positions, (cells, n)."""
    held = np.flatnonzero(position >= 0)
    to = sparse.csr_matrix(
        (np.ones(len(held), np.float32), (held, position[held])), shape=(len(position), n), dtype=np.float32
    )
    return sparse.vstack([block @ to for _, block in blocks(x)], format="csr")


def _log(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log of 1 + counts normalised to the median depth of the cells that have any; in float64, changes `x`."""
    x = x.astype(np.float64)
    depth = np.asarray(x.sum(axis=1)).ravel()
    usual = np.median(depth[depth > 0]) if (depth > 0).any() else 1.0
    x.data *= np.repeat(usual / np.where(depth > 0, depth, 1), np.diff(x.indptr))
    np.log1p(x.data, out=x.data)
    return x


def _variable(a: sparse.csr_matrix, b: sparse.csr_matrix, n: int) -> NDArray[np.int64]:
    """Genes that vary in both; if they are more than `n`, scanpy's most variable of the first."""
    import anndata
    import scanpy as sc

    fine = np.flatnonzero((Standardised.of(a).inverse > 0) & (Standardised.of(b).inverse > 0))
    if len(fine) < _FEWEST:
        raise ValueError(f"{len(fine)} shared genes vary in both modalities, fewer than {_FEWEST}.")
    if len(fine) <= n:
        return fine
    table = sc.pp.highly_variable_genes(anndata.AnnData(a[:, fine]), n_top_genes=n, inplace=False)
    most: NDArray[np.int64] = fine[table["highly_variable"].to_numpy()]
    return most
