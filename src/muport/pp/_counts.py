"""Modalities and their counts: selected by name, checked, and read in blocks of rows without a second full copy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse
from sklearn.utils import gen_batches

from muport._arrays import sum_repeats
from muport.data import check_writable, layer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata
    from numpy.typing import NDArray

logger = logging.getLogger("muport")

#: Number of values per block. A block of float32 takes 64 MiB.
_BLOCK_VALUES = 2**24
#: Number of cells per block of a sparse matrix.
_BLOCK_ROWS = 4096


def get_modality(data: mudata.MuData, modality: str) -> anndata.AnnData:
    """Return a modality by name."""
    if modality not in data.mod:
        raise KeyError(f"modality={modality!r} is not in the data, which has {list(data.mod)}.")
    adata: anndata.AnnData = data.mod[modality]
    return adata


def writable_modality(data: anndata.AnnData | mudata.MuData, modality: str) -> anndata.AnnData:
    """Return an AnnData itself, or a modality of a MuData; raise a ValueError if `data` is a view."""
    check_writable(data)
    return get_modality(data, modality) if isinstance(data, mudata.MuData) else data


def get_values(adata: anndata.AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer."""
    x = layer_of(adata, layer)
    if x is None:
        raise ValueError("X is empty: put the counts in X.")
    return x


def counts_layer(adata: anndata.AnnData) -> str | None:
    """Return the layer of the counts: ``"counts"`` if there is such a layer, else None for ``X``."""
    return "counts" if "counts" in adata.layers else None


def first_invalid_count(x: Any, integers: bool = True) -> float | None:
    """Return the first value that is negative, not finite or, with `integers`, not an integer."""
    values = np.asarray(x.data if sparse.issparse(x) else x).reshape(-1)
    for part in gen_batches(values.size, _BLOCK_VALUES):
        block = values[part]
        invalid = ~(np.isfinite(block) & (block >= 0))
        if integers:
            invalid |= block != np.floor(block)
        if invalid.any():
            return float(block[int(np.flatnonzero(invalid)[0])])
    return None


def get_counts(adata: anndata.AnnData, layer: str | None, min_shape: tuple[int, int] = (4, 2)) -> Any:
    """Return checked counts in a format whose rows can be sliced fast.

    - `layer`: Layer with the counts. None: ``X``.
    - `min_shape`: Smallest number of cells and of features.

    Raises KeyError if the layer does not exist; ValueError if the matrix is too small, or has values that are not
    counts.
    """
    x = get_values(adata, layer)
    if adata.n_obs < min_shape[0] or adata.n_vars < min_shape[1]:
        raise ValueError(
            f"the counts must be of at least {min_shape[0]} cells and {min_shape[1]} features, not {adata.shape}."
        )
    if sparse.issparse(x) or isinstance(x, np.ndarray):
        _check_counts(x, layer, "counts" in adata.layers)
    return x.tocsr() if sparse.issparse(x) and x.format != "csr" else x


def _check_counts(x: Any, layer: str | None, has_counts: bool) -> None:
    value = first_invalid_count(x)
    if value is not None:
        source = "X" if layer is None else f"layers[{layer!r}]"
        hint = "pass layer='counts'" if layer is None and has_counts else f"put the counts in {source}"
        raise ValueError(
            f"{source} holds {value:g}, which is not a count: the values seem to be normalized or logged already; "
            f"{hint}. Round counts that were corrected or estimated."
        )


def iterate_blocks(x: Any) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yield slices of rows with their values as CSR float32; `x` may be sparse, dense, or backed by a file."""
    n_rows = _BLOCK_ROWS if sparse.issparse(x) else max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // max(x.shape[1], 1)))
    for rows in gen_batches(x.shape[0], n_rows):
        yield rows, sum_repeats(sparse.csr_matrix(x[rows], dtype=np.float32))


def read_rows_sorted(x: Any, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return the given rows, which must be in ascending order, block by block."""
    selected = []
    for span, block in iterate_blocks(x):
        inside = rows[np.searchsorted(rows, span.start) : np.searchsorted(rows, span.stop)] - span.start
        selected.append(block if len(inside) == block.shape[0] else block[inside])
    return sparse.vstack(selected, format="csr")


def count_nonzero(x: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of features detected in each cell, and the number of cells with each feature."""
    n_features, n_cells = [], np.zeros(x.shape[1], dtype=np.int64)
    for _, block in iterate_blocks(x):
        block.eliminate_zeros()
        n_features.append(np.diff(block.indptr))
        n_cells += np.bincount(block.indices, minlength=x.shape[1])
    return np.concatenate(n_features).astype(np.int64), n_cells


def warn_of_empty_cells(n_features: NDArray[np.int64], obs_names: Any, source: str) -> None:
    """Log how many cells have no counts. Such cells are placed at the origin."""
    empty = np.flatnonzero(n_features == 0)
    if len(empty):
        logger.warning(
            "%d cells have no counts in %s, for example %r: remove them with scanpy.pp.filter_cells.",
            len(empty), source, str(obs_names[int(empty[0])]),
        )  # fmt: skip
