"""Distances between patients from their cells, without a mixture: sliced Wasserstein and exact transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist

from muport._parallel import parallel_map, single_threaded
from muport.ot import solve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["emd_cells", "sliced"]


def sliced(
    x: ArrayLike,
    sample: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    w: ArrayLike | None = None,
    n_projections: int = 100,
    n_quantiles: int = 100,
    random_state: int = 0,
) -> NDArray[np.float64]:
    """Sliced 2-Wasserstein distances between patients, linear in the cells.

    SW2^2 = mean over directions of the integral of (F_i^-1 - F_j^-1)^2, the integral by the mid-points of `n_quantiles`
    equal parts.

    Parameters
    ----------
    x
        (n, d) cells.
    sample
        (n,) codes 0..P-1 of the patients.
    weight
        (n,) weights of the cells, > 0; by default 1.
    w
        (r, d) metric; by default the identity.
    n_projections
        Random directions.
    n_quantiles
        Points of each quantile function.
    random_state
        Seed of the directions.

    Returns
    -------
    NDArray
        (P, P), a pseudometric: symmetric, with the triangle inequality.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
    >>> sliced(x, [0, 0, 1, 1])[0, 1].round(6)
    np.float64(3.0)
    """
    cells, code, mass = _cells(x, sample, weight, w)
    rng = np.random.default_rng(random_state)
    direction = rng.standard_normal((n_projections, cells.shape[1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    total = np.bincount(code, mass)
    share = mass / total[code]
    middle = (np.arange(n_quantiles) + 0.5) / n_quantiles
    target = (np.arange(len(total))[:, None] + middle).ravel()
    profile = np.stack([_quantiles(cells @ one, code, share, target) for one in direction], axis=1)
    profile = profile.reshape(len(total), n_quantiles * n_projections)
    distance: NDArray[np.float64] = cdist(profile, profile) / np.sqrt(profile.shape[1])
    return distance


def _quantiles(
    value: NDArray[np.float64], code: NDArray[np.int64], share: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantile functions of all patients at once: the p-th begins at p on one common axis of cumulated shares."""
    order = np.lexsort((value, code))
    patient = code[order]
    first = np.searchsorted(patient, np.arange(int(patient[-1]) + 2))
    running = np.cumsum(share[order])
    # Taken from each patient's own start, so that rounding cannot pass from one patient to the next.
    start = np.concatenate([[0.0], running])[first[:-1]]
    index = np.searchsorted(patient + np.minimum(running - start[patient], 1.0), target - 1e-9)
    quantile: NDArray[np.float64] = value[order][np.minimum(index, first[1:][target.astype(np.int64)] - 1)]
    return quantile


@single_threaded()
def emd_cells(
    x: ArrayLike,
    sample: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    w: ArrayLike | None = None,
    n_cells: int | None = 250,
    p: int = 2,
    random_state: int = 0,
) -> NDArray[np.float64]:
    """Exact p-Wasserstein distances between the patients' cells.

    Parameters
    ----------
    x
        (n, d) cells.
    sample
        (n,) codes 0..P-1 of the patients.
    weight
        (n,) weights of the cells, > 0; by default 1.
    w
        (r, d) metric; by default the identity.
    n_cells
        At most as many random cells of each patient; ``None`` takes all, at a cost that grows with their cube. Patients
        with fewer cells keep what they have.
    p
        1 (cost |Wx - Wy|) or 2 (cost |Wx - Wy|^2, and the root of the total).
    random_state
        Seed of the choice of cells.

    Returns
    -------
    NDArray
        (P, P), symmetric with a diagonal of 0.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
    >>> emd_cells(x, [0, 0, 1, 1])[0, 1].round(6)
    np.float64(3.0)
    """
    if p not in (1, 2):
        raise ValueError(f"p={p} must be 1 or 2.")
    cells, code, mass = _cells(x, sample, weight, w)
    rng = np.random.default_rng(random_state)
    order = np.lexsort((rng.random(len(code)), code))
    rows = np.split(order, np.searchsorted(code[order], np.arange(1, int(code.max()) + 1)))
    rows = [np.sort(one[:n_cells]) for one in rows]

    def price(pair: tuple[int, int]) -> float:
        i, j = (rows[one] for one in pair)
        cost = cdist(cells[i], cells[j], "euclidean" if p == 1 else "sqeuclidean")
        share = [torch.from_numpy(mass[k] / mass[k].sum()) for k in (i, j)]
        return float(solve(cost=torch.from_numpy(cost), a=share[0], b=share[1], method="exact").value)

    upper = np.triu_indices(len(rows), 1)
    out = np.zeros((len(rows), len(rows)))
    out[upper] = parallel_map(price, list(zip(*(index.tolist() for index in upper), strict=True)))
    out = np.maximum(out + out.T, 0)
    return out if p == 1 else np.sqrt(out)


def _cells(
    x: ArrayLike, sample: ArrayLike, weight: ArrayLike | None, w: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Cells under the metric, their patients and weights, checked."""
    cells, code = np.asarray(x, dtype=np.float64), np.asarray(sample)
    mass = np.ones(len(cells)) if weight is None else np.asarray(weight, dtype=np.float64)
    if cells.ndim != 2 or code.shape != cells.shape[:1] or mass.shape != cells.shape[:1]:
        raise ValueError(f"x {cells.shape}, sample {code.shape} and weight {mass.shape} need one row per cell.")
    if not np.isfinite(cells).all() or not (mass > 0).all():
        raise ValueError("x must be finite and weight positive: remove the cells that are not.")
    if not np.issubdtype(code.dtype, np.integer) or set(np.unique(code)) != set(range(int(code.max()) + 1)):
        raise ValueError("sample must hold integer codes 0..P-1, each with at least one cell.")
    if w is not None:
        metric = np.asarray(w, dtype=np.float64)
        if metric.ndim != 2 or metric.shape[1] != cells.shape[1]:
            raise ValueError(f"w has shape {metric.shape}: x has {cells.shape[1]} coordinates.")
        cells = cells @ metric.T
    return cells, code.astype(np.int64), mass
