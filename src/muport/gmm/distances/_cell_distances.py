"""Distances between patients from their cells, without mixtures: sliced Wasserstein and exact transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist

from muport._arrays import canonical_order
from muport._parallel import parallel_map, single_threaded
from muport.ot import solve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["exact_wasserstein", "sliced_wasserstein"]


def sliced_wasserstein(
    x: ArrayLike,
    sample: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    w: ArrayLike | None = None,
    n_projections: int = 100,
    n_quantiles: int = 100,
    random_state: int = 0,
) -> NDArray[np.float64]:
    """Compute sliced 2-Wasserstein distances between patients; the time is nearly linear in the number of cells.

    SW2^2 is the mean over directions of the integral of (F_i^-1 - F_j^-1)^2, approximated by the midpoints of
    `n_quantiles` equal intervals.

    - `x`: (n, d) cells.
    - `sample`: (n,) codes 0..P-1 of the patients.
    - `weight`: (n,) weights of the cells, >= 0; by default 1. Cells of weight 0 are ignored.
    - `w`: (r, d) metric; by default the identity.
    - `n_projections`: Number of random directions.
    - `n_quantiles`: Number of points of each quantile function.
    - `random_state`: Seed of the directions.

    Returns (P, P), a pseudometric: symmetric, with the triangle inequality.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
    >>> sliced_wasserstein(x, [0, 0, 1, 1])[0, 1].round(6)
    np.float64(3.0)
    """
    cells, code, weights = _check_patients(x, sample, weight, w)
    rng = np.random.default_rng(random_state)
    directions = rng.standard_normal((n_projections, cells.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = np.bincount(code, weights)
    fraction = weights / total[code]
    midpoints = (np.arange(n_quantiles) + 0.5) / n_quantiles
    target = (np.arange(len(total))[:, None] + midpoints).ravel()
    profile = np.stack([_quantiles(cells @ direction, code, fraction, target) for direction in directions], axis=1)
    profile = profile.reshape(len(total), n_quantiles * n_projections)
    distance: NDArray[np.float64] = cdist(profile, profile) / np.sqrt(profile.shape[1])
    return distance


def _quantiles(
    value: NDArray[np.float64], code: NDArray[np.int64], fraction: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantile functions of all patients at once, on one axis on which patient p has the interval [p, p + 1]."""
    order = np.lexsort((value, code))
    patient = code[order]
    first = np.searchsorted(patient, np.arange(int(patient[-1]) + 2))
    running = np.cumsum(fraction[order])
    # relative to the start of each patient, so that rounding does not pass from one patient to the next
    start = np.concatenate([[0.0], running])[first[:-1]]
    index = np.searchsorted(patient + np.minimum(running - start[patient], 1.0), target - 1e-9)
    quantile: NDArray[np.float64] = value[order][np.minimum(index, first[1:][target.astype(np.int64)] - 1)]
    return quantile


@single_threaded()
def exact_wasserstein(
    x: ArrayLike,
    sample: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    w: ArrayLike | None = None,
    n_cells: int | None = 250,
    random_state: int = 0,
) -> NDArray[np.float64]:
    """Compute exact 2-Wasserstein distances between the cells of patients.

    - `x`, `sample`, `weight`, `w`: As for :func:`sliced_wasserstein`.
    - `n_cells`: Maximum number of random cells of each patient; ``None`` uses all cells, in a time cubic in their
      number.
    - `random_state`: Seed of the choice of cells.

    Returns (P, P), symmetric with a diagonal of 0.

    Examples
    --------
    >>> exact_wasserstein([[0.0], [1.0], [3.0], [4.0]], [0, 0, 1, 1])[0, 1].round(6)
    np.float64(3.0)
    """
    cells, code, weights = _check_patients(x, sample, weight, w)
    rng = np.random.default_rng(random_state)
    # the choice does not depend on the order of the cells
    rows = canonical_order(cells, code)
    cells, code, weights = cells[rows], code[rows], weights[rows]
    order = np.lexsort((rng.random(len(code)), code))
    patients = np.split(order, np.searchsorted(code[order], np.arange(1, int(code.max()) + 1)))
    patients = [np.sort(rows[:n_cells]) for rows in patients]

    def solve_pair(pair: tuple[int, int]) -> float:
        i, j = (patients[index] for index in pair)
        cost = cdist(cells[i], cells[j], "sqeuclidean")
        a, b = (torch.from_numpy(weights[rows] / weights[rows].sum()) for rows in (i, j))
        return float(solve(cost=torch.from_numpy(cost), a=a, b=b, method="exact").value)

    upper = np.triu_indices(len(patients), 1)
    squared = np.zeros((len(patients), len(patients)))
    squared[upper] = parallel_map(solve_pair, list(zip(*(index.tolist() for index in upper), strict=True)))
    return np.sqrt(np.maximum(squared + squared.T, 0))


def _check_patients(
    x: ArrayLike, sample: ArrayLike, weight: ArrayLike | None, w: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Cells of positive weight under the metric, their patients and weights, checked."""
    cells, code = np.asarray(x, dtype=np.float64), np.asarray(sample)
    weights = np.ones(len(cells)) if weight is None else np.asarray(weight, dtype=np.float64)
    if cells.ndim != 2 or code.shape != cells.shape[:1] or weights.shape != cells.shape[:1]:
        raise ValueError(f"x {cells.shape}, sample {code.shape} and weight {weights.shape} need one row per cell.")
    cells, code, weights = cells[weights != 0], code[weights != 0], weights[weights != 0]
    if not np.isfinite(cells).all() or not (weights > 0).all():
        raise ValueError("x must be finite and weight >= 0: remove the cells that are not.")
    if not np.issubdtype(code.dtype, np.integer) or set(np.unique(code)) != set(range(int(code.max()) + 1)):
        raise ValueError("sample must be integer codes 0..P-1, each with at least one cell of positive weight.")
    if w is not None:
        metric = np.asarray(w, dtype=np.float64)
        if metric.ndim != 2 or metric.shape[1] != cells.shape[1]:
            raise ValueError(f"w has shape {metric.shape}: x has {cells.shape[1]} coordinates.")
        cells = cells @ metric.T
    return cells, code.astype(np.int64), weights
