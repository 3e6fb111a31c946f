"""How well held-out paired cells find their partner: in shared coordinates, and in a space fitted on other pairs."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.spaces._ridge_regression import find_paired_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

__all__ = ["estimate_shared_fraction", "fraction_closer"]

_FOLDS = 2
_MAX_PAIRS = 1_500  # held-out pairs that are compared in a fold: all distances between them are held at once
_MIN_ERROR = 0.005  # smaller errors count as this one

#: A modality, and rows of it.
type Side = tuple[str, NDArray[np.int64]]
#: Coordinates of the held-out cells by their first modality and by their second, row by row the same cells.
type BothSides = tuple[NDArray[np.float32], NDArray[np.float32]]
#: From modality -> position of its rows among the cells, in which held-out pairs are separate cells, and the two sides
#: of the held-out pairs: their coordinates in the space fitted on the other pairs, and their shared coordinates.
type EmbedHeldOut = Callable[[CellIndex, Side, Side], tuple[BothSides, BothSides]]


def estimate_shared_fraction(
    x: Coordinates, cell_index: CellIndex, n_cells: int, embed_held_out: EmbedHeldOut
) -> float:
    """Estimate the fraction of the squared distances of cells that shared coordinates should have, 0..1.

    Each half of the pairs is held out in turn. With e the fraction of cells that are closer than the held-out partner,
    in the shared coordinates or in the space fitted on the other pairs, each of the two counts with sqrt(1/e - 2),
    which is 0 at chance. The square root keeps some of both: their average has less noise than the better one alone.

    - `x`: Modality -> (n_m, d_m) coordinates, which give the pairs an order of their own.
    - `embed_held_out`: Embeds held-out pairs.
    """
    fitted_errors, shared_errors = [], []
    for b, m in combinations(sorted(x), 2):
        source_rows, target_rows = find_paired_rows(x, cell_index, b, m, n_cells)
        for fold in range(_FOLDS if len(source_rows) >= 2 * _FOLDS else 0):
            held_out = np.arange(fold, len(source_rows), _FOLDS)
            separated = {**cell_index, m: cell_index[m].copy()}
            separated[m][target_rows[held_out]] = n_cells + np.arange(len(held_out))
            compared = held_out[np.linspace(0, len(held_out) - 1, min(_MAX_PAIRS, len(held_out))).astype(np.int64)]
            fitted, shared = embed_held_out(separated, (b, source_rows[compared]), (m, target_rows[compared]))
            fitted_errors.append(fraction_closer(*fitted))
            shared_errors.append(fraction_closer(*shared))
    if not fitted_errors:
        return 1.0
    first, second = (
        np.sqrt(max(1 / max(float(np.mean(errors)), _MIN_ERROR) - 2, 0.0)) for errors in (fitted_errors, shared_errors)
    )
    return float(second / (first + second)) if first + second > 0 else 0.0


def fraction_closer(z: NDArray[np.float32], w: NDArray[np.float32]) -> float:
    """Compute the fraction of samples closer than the true match (FOSCTTM) of centered cells (n, d), in float32."""
    z, w = z - z.mean(axis=0), w - w.mean(axis=0)
    distance = np.square(z).sum(axis=1)[:, None] + np.square(w).sum(axis=1) - 2 * z @ w.T
    match = np.diag(distance)
    closer = (distance < match[:, None]).sum() + (distance < match).sum()
    return float(closer / (2 * len(z) * max(len(z) - 1, 1)))
