"""The cells of the fit, recognized by a code: values of new cells are taken from them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import row_codes, sum_codes

if TYPE_CHECKING:
    from muport.data import Rows

__all__ = ["code_cells"]


def code_cells(rows: Rows) -> dict[str, str]:
    """Code the cells of each batch, whatever their order: their modalities, coordinates and covariates."""
    codes = np.zeros(rows.n_cells, np.uint64)
    for number, name in enumerate(rows.modalities):
        taken, own = rows.modality == number, rows.own.get(name)
        of_row = row_codes(rows.x[taken]) + np.uint64(zlib.crc32(name.encode()))
        if own is not None and not np.shares_memory(own, rows.x):
            of_row += 3 * row_codes(own)
        codes += sum_codes(of_row, rows.cell[taken], rows.n_cells)
    if rows.covariates is not None:
        codes += row_codes(rows.covariates)
    batch_of_cell = np.zeros(rows.n_cells, np.int64)
    batch_of_cell[rows.cell] = rows.batch
    of_batch = sum_codes(codes, batch_of_cell, len(rows.batches))
    return {name: f"{code:016x}" for name, code in zip(rows.batches, of_batch.tolist(), strict=True)}
