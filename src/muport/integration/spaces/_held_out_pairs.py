"""How well held-out paired cells find their partner: in the shared coordinates, and in the space learnt from pairs."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.spaces._ridge_regression import common_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["missed", "shared_part"]

_FOLDS = 2
_CELLS = 1_500  # held-out pairs that are looked at in a fold
_LEAST = 0.005  # error below which a space is as good as any

#: Modality -> position of its rows among the cells; and the two sets of cells, row by row the same, that are to meet:
#: gives their places in the space learnt without these pairs, and in the shared coordinates
type Placing = Callable[
    [Mapping[str, NDArray[np.int64]], tuple[str, NDArray[np.int64]], tuple[str, NDArray[np.int64]]],
    tuple[tuple[NDArray[np.float32], NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]],
]


def shared_part(
    x: Mapping[str, NDArray[np.float32]], cell: Mapping[str, NDArray[np.int64]], n_cells: int, placing: Placing
) -> float:
    """Part of the shared coordinates in the squared distance of cells, 0..1.

    Half of the pairs are hidden in turn. With e the share of cells nearer than the hidden partner, in the shared
    coordinates or in the space learnt from the other pairs, either counts by sqrt(1/e - 2), which is 0 at chance. The
    root keeps some of both: what both tell of a cell is less noisy than what the better one tells.

    Parameters
    ----------
    x
        Modality -> (n_m, d_m) coordinates, which give the pairs an order of their own.
    cell
        Modality -> (n_m,) position of each row among the cells.
    n_cells
        Number of cells.
    placing
        Called with the cells, the hidden partners of some being cells of their own.
    """
    learnt, shared = [], []
    for b, m in combinations(x, 2):
        rows, others = common_rows(x, cell, b, m, n_cells)
        for fold in range(_FOLDS if len(rows) >= 2 * _FOLDS else 0):
            chosen = np.arange(fold, len(rows), _FOLDS)
            apart = {**cell, m: cell[m].copy()}
            apart[m][others[chosen]] = n_cells + np.arange(len(chosen))
            some = chosen[np.linspace(0, len(chosen) - 1, min(_CELLS, len(chosen))).astype(np.int64)]
            spaces = placing(apart, (b, rows[some]), (m, others[some]))
            learnt.append(missed(*spaces[0]))
            shared.append(missed(*spaces[1]))
    if not learnt:
        return 1.0
    first, second = (np.sqrt(max(1 / max(float(np.mean(one)), _LEAST) - 2, 0.0)) for one in (learnt, shared))
    return float(second / (first + second)) if first + second > 0 else 0.0


def missed(z: NDArray[np.float32], w: NDArray[np.float32]) -> float:
    """Mean share of the other side's cells (n, d) that are nearer than the partner, over both sides, each centred."""
    first, second = z - z.mean(axis=0), w - w.mean(axis=0)
    distance = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    own = np.diag(distance)
    nearer = (distance < own[:, None]).sum() + (distance < own).sum()
    return float(nearer / (2 * len(z) * max(len(z) - 1, 1)))
