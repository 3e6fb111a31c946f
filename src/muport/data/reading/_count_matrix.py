"""Counts of an AnnData: checked, and read in blocks of rows without a second full copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.utils import gen_batches

from muport._arrays import sum_repeats
from muport.data.reading._layers import in_memory, layer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata

__all__ = ["counts_layer", "first_invalid_count", "get_counts", "get_values", "iterate_blocks"]

#: Number of values per block. A block of float32 takes 64 MiB.
_BLOCK_VALUES = 2**24
#: Number of cells per block of a sparse matrix.
_BLOCK_ROWS = 4096


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
    for values in [x] if sparse.issparse(x) or isinstance(x, np.ndarray) else (part for _, part in _read_blocks(x)):
        _check_counts(values, layer, "counts" in adata.layers)
    return x.tocsr() if sparse.issparse(x) and x.format != "csr" else x


def _check_counts(x: Any, layer: str | None, has_counts: bool) -> None:
    source = "X" if layer is None else f"layers[{layer!r}]"
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{source} holds {x.dtype}, not numbers: put the counts in {source}.")
    value = first_invalid_count(x)
    if value is not None:
        hint = "pass layer='counts'" if layer is None and has_counts else f"put the counts in {source}"
        raise ValueError(
            f"{source} holds {value:g}, which is not a count: the values seem to be normalized or logged already; "
            f"{hint}. Round counts that were corrected or estimated."
        )


def iterate_blocks(x: Any) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yield slices of rows with their values as CSR float32; `x` may be sparse, dense, of Dask, or on disk."""
    for rows, block in _read_blocks(x):
        yield rows, sum_repeats(sparse.csr_matrix(block, dtype=np.float32))


def _read_blocks(x: Any) -> Iterator[tuple[slice, Any]]:
    """Yield slices of rows with their values, in memory, as an array or a sparse matrix."""
    n_rows = _BLOCK_ROWS if sparse.issparse(x) else max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // max(x.shape[1], 1)))
    for rows in gen_batches(x.shape[0], n_rows):
        yield rows, in_memory(x[rows])
