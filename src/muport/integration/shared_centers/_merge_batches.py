"""Batches of a modality between which there is no batch effect are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration._hyperparameters import Hyperparameters

__all__ = ["merge_batches"]

_MERGED_BELOW = 0.5  # fraction of the move that would be applied, below which batches are merged


def merge_batches(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    names: tuple[str, ...],
    blocks: dict[str, NDArray[np.int64]],
    hyperparameters: Hyperparameters,
    seed: int,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Merge the groups of each block whose cells mix as if by chance, or nearly so.

    Many small groups without a batch effect would each be fitted on few cells, and rare types would be lost.

    - `x`: (N, d) cells.
    - `group`: (N,) codes into `names`.
    - `blocks`: Name -> codes of the groups that may be merged under that name.
    - `hyperparameters`: Their conservation decides how strong the evidence of a batch effect must be.

    Returns (G,) merged group of each group, and the names of the merged groups.
    """
    merged_name = list(names)
    for name, codes in blocks.items():
        if len(codes) < 2:
            continue
        rows = np.flatnonzero(np.isin(group, codes))
        # In canonical order neither names nor the order of cells can change the result.
        cells = standardize_cells(x[rows], group[rows], names)
        batch_effect = measure_batch_effect(cells.x, cells.group, len(cells.group_names), seed)
        if hyperparameters.step_factor(batch_effect) < _MERGED_BELOW:
            for code in codes:
                merged_name[code] = name
    merged = tuple(dict.fromkeys(merged_name))
    return np.array([merged.index(name) for name in merged_name], dtype=np.int64), merged
