"""Modalities and their counts: selected by name, and counted in blocks of rows without a second full copy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from scipy import sparse

from muport.data import check_writable
from muport.data.reading._count_matrix import iterate_blocks

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

logger = logging.getLogger("muport")


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
            "%d %s no counts in %s, for example %r: remove such cells with scanpy.pp.filter_cells.",
            len(empty), "cell has" if len(empty) == 1 else "cells have", source, str(obs_names[int(empty[0])]),
        )  # fmt: skip
