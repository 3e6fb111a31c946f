"""Batches of a modality that nothing sets apart are taken together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration._hyperparameters import Hyperparameters

__all__ = ["merge_batches"]

_APART = 0.5  # share of a move below which batches stay together


def merge_batches(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    names: tuple[str, ...],
    blocks: dict[str, NDArray[np.int64]],
    hyperparameters: Hyperparameters,
    seed: int,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Pool the groups of each block whose cells mix as by chance, or nearly.

    Many small groups without a batch effect of their own would each be fitted on few cells, and rare types be lost.

    Parameters
    ----------
    x
        (N, d) cells.
    group
        (N,) codes into `names`.
    names
        Names of the groups.
    blocks
        Name -> codes of the groups that may be pooled under that name.
    hyperparameters
        Their conservation decides how much of a batch effect must be seen.
    seed
        Seed of the test.

    Returns
    -------
    (G,) pool of each group, and the names of the pools.
    """
    label = list(names)
    for name, codes in blocks.items():
        if len(codes) < 2:
            continue
        rows = np.flatnonzero(np.isin(group, codes))
        # in canonical order, so that neither names nor the order of cells can change the outcome
        cells = standardize_cells(x[rows], group[rows], names)
        if hyperparameters.caution(measure_batch_effect(cells.x, cells.group, len(cells.names), seed)) < _APART:
            for code in codes:
                label[code] = name
    pools = tuple(dict.fromkeys(label))
    return np.array([pools.index(one) for one in label], dtype=np.int64), pools
