"""Counts as they come: checked, and read in blocks of rows, so that no full copy of a matrix is made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse

from muport.data import layer_of
from muport.pp._pseudotime import modality_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata
    from numpy.typing import NDArray

logger = logging.getLogger("muport")

#: Values looked at together, so that a large matrix never has a second full copy.
_VALUES = 2**24
#: Cells read together.
_ROWS = 4096


def part_of(data: anndata.AnnData | mudata.MuData, modality: str) -> anndata.AnnData:
    """Return the AnnData that is meant: `data` itself, or a modality; views are refused, since they are written to."""
    if getattr(data, "is_view", False):
        raise ValueError(f"data is a view, which cannot be written to: pass {type(data).__name__.lower()}.copy().")
    return modality_of(data, modality) if isinstance(data, mudata.MuData) else data


def matrix_of(part: anndata.AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer."""
    x = layer_of(part, layer)
    if x is None:
        raise ValueError("X is empty: put the counts in X.")
    return x


def check_integers(**values: Any) -> None:
    """Refuse numbers that are no positive integers; a seed may be 0."""
    for name, value in values.items():
        least = 0 if name == "random_state" else 1
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


def check_numbers(**values: tuple[Any, float, float]) -> None:
    """Refuse numbers that lie outside their range: ``name=(value, least, most)``."""
    for name, (value, least, most) in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not least <= value <= most:
            raise ValueError(f"{name}={value!r} must be a number from {least:g} to {most:g}.")


def first_no_count(x: Any, whole: bool = True) -> float | None:
    """Return the first value that is negative, not finite or, if `whole`, no integer."""
    values = np.asarray(x.data if sparse.issparse(x) else x).reshape(-1)
    for start in range(0, values.size, _VALUES):
        block = values[start : start + _VALUES]
        wrong = ~(np.isfinite(block) & (block >= 0))
        if whole:
            wrong |= block != np.floor(block)
        if wrong.any():
            return float(block[int(np.flatnonzero(wrong)[0])])
    return None


def counts_of(part: anndata.AnnData, layer: str | None, least: tuple[int, int] = (4, 2)) -> Any:
    """Return the counts, checked, such that slices of rows are fast.

    Parameters
    ----------
    part
        One modality.
    layer
        Layer of the counts. None: ``X``.
    least
        Fewest cells and features.

    Raises
    ------
    KeyError
        If the layer is not there.
    ValueError
        If the matrix is too small, or has values that are no counts.
    """
    x = matrix_of(part, layer)
    if part.n_obs < least[0] or part.n_vars < least[1]:
        raise ValueError(f"the counts must be of at least {least[0]} cells and {least[1]} features, not {part.shape}.")
    if sparse.issparse(x) or isinstance(x, np.ndarray):
        _check(x, layer, "counts" in part.layers)
    return x.tocsr() if sparse.issparse(x) and x.format != "csr" else x


def _check(x: Any, layer: str | None, has_counts: bool) -> None:
    wrong = first_no_count(x)
    if wrong is not None:
        where = "X" if layer is None else f"layers[{layer!r}]"
        hint = "pass layer='counts'" if layer is None and has_counts else f"put the counts in {where}"
        raise ValueError(
            f"{where} holds {wrong:g}, which is no count: it seems to be normalised or logged already; {hint}. Round "
            "counts that were corrected or estimated."
        )


def blocks(x: Any, n_rows: int = _ROWS) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yield slices of rows with their values, CSR, float32; `x` may be sparse, dense, or lie on disk."""
    if not sparse.issparse(x):
        n_rows = max(1, min(n_rows, _VALUES // max(x.shape[1], 1)))
    for start in range(0, x.shape[0], n_rows):
        rows = slice(start, min(start + n_rows, x.shape[0]))
        yield rows, sparse.csr_matrix(x[rows], dtype=np.float32)


def rows_of(x: Any, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return some rows, in ascending order, block by block."""
    found = []
    for part, block in blocks(x):
        here = rows[np.searchsorted(rows, part.start) : np.searchsorted(rows, part.stop)] - part.start
        found.append(block if len(here) == block.shape[0] else block[here])
    return sparse.vstack(found, format="csr")


def row_sums(x: Any) -> NDArray[np.float64]:
    """Sum of every row, in float64."""
    return np.concatenate([np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for _, block in blocks(x)])


def n_detected(x: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the features that each cell has, and the cells that each feature has."""
    cells, features = [], np.zeros(x.shape[1], dtype=np.int64)
    for _, block in blocks(x):
        block.eliminate_zeros()
        cells.append(np.diff(block.indptr))
        features += np.bincount(block.indices, minlength=x.shape[1])
    return np.concatenate(cells).astype(np.int64), features


def warn_of_empty(n_features: NDArray[np.int64], obs_names: Any, what: str) -> None:
    """Log how many cells have no counts: they lie at the origin."""
    empty = np.flatnonzero(n_features == 0)
    if len(empty):
        logger.warning(
            "%d cells have no counts in %s, for example %r: they tell nothing; leave them out with "
            "scanpy.pp.filter_cells.", len(empty), what, str(obs_names[int(empty[0])]),
        )  # fmt: skip
