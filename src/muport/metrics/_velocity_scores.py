"""Scores of velocities against known transitions between groups, against neighbors, and against a true velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._arrays import unit_rows
from muport.data.reading._categories import category_name
from muport.metrics._cell_names import match_rows
from muport.metrics._checked_values import real_numbers
from muport.metrics._neighbor_scores import as_codes
from muport.neighbors import as_points, knn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_BLOCK = 2**22  # number of differences (cells x neighbors x dimensions) computed together


@dataclass(frozen=True)
class VelocityError:
    """Differences between velocities and the true ones.

    Attributes
    ----------
    cosine
        Mean over cells of the cosine between both.
    cosine_p05
        5th percentile of the cosine over cells.
    magnitude
        Median over cells of ``| |v| / |u| - 1 |``, with the true velocity u; 0.1 is 10 % too long or too short.
    n_cells
        Number of cells scored, those whose true velocity is not zero.
    """

    cosine: float
    cosine_p05: float
    magnitude: float
    n_cells: int


def cbdir(
    x: Any, velocity: Any, labels: Any, edges: Iterable[tuple[Any, Any]], *, neighbors: Any | None = None, k: int = 15
) -> pd.DataFrame:
    r"""Cross-boundary direction correctness of known transitions, of the reversed transitions, and their contrast.

    For an edge A -> B the boundary cells are those of A with a neighbor in B. With N(c) the neighbors of c,

    .. math:: D(A \to B) = \frac{1}{|\partial A|} \sum_{c \in \partial A} \frac{1}{|N(c) \cap B|}
              \sum_{j \in N(c) \cap B} \cos(x_j - x_c, v_c) .

    This is the score of Qiao and Huang (PNAS 2021), computed in latent space. A velocity that points to the nearest
    cells, whatever their time (:func:`direction_free`), has a high score for A -> B *and* for B -> A. The contrast
    (D(A -> B) - D(B -> A)) / 2 measures the direction: it is 0 for velocities without direction, and changes its sign
    if all velocities are reversed.

    Series and DataFrames are matched by the names of their rows, arrays by position.

    Parameters
    ----------
    x
        (n, d) cells.
    velocity
        (n, d) velocities of the cells, in the space of `x`. The cosine with a zero vector is 0.
    labels
        (n,) group of each cell.
    edges
        Pairs (A, B) of groups, where cells of A become cells of B.
    neighbors
        (n, m) positions of the neighbors of each cell, -1 for none; by default the `k` nearest in `x`.
    k
        Number of neighbors; fewer if there are fewer cells.

    Returns
    -------
    DataFrame with a row for each edge: ``source``, ``target``, ``forward``, ``reverse``, ``contrast``, and the numbers
    of boundary cells ``n_forward`` and ``n_reverse``. Scores without boundary cells are NaN.

    Raises
    ------
    ValueError
        If shapes or the names of the cells differ, an entry is not finite, or there is no edge.
    KeyError
        If a group of an edge has no cells.

    Examples
    --------
    >>> x = [[0.0], [1.0], [2.0], [3.0]]
    >>> cbdir(x, [[1.0]] * 4, ["a", "a", "b", "b"], [("a", "b")], k=2)["contrast"].tolist()
    [1.0]
    """
    x, velocity, labels = match_rows(x=x, velocity=velocity, labels=labels)
    points, velocities = _check_vectors(x=x, velocity=velocity)
    names, code = as_codes(labels, len(points), "labels")
    transitions = [(category_name(a), category_name(b)) for a, b in edges]
    if not transitions:
        raise ValueError("edges is empty: give at least one pair of groups.")
    unknown = sorted({name for edge in transitions for name in edge} - set(names))
    if unknown:
        raise KeyError(f"edges name {unknown}, but the groups are {names.tolist()}.")
    indices = _neighbor_indices(points, neighbors, k)
    cosine = _cosines(points, velocities, indices)
    position = {name: i for i, name in enumerate(names)}
    rows = []
    for a, b in transitions:
        forward, n_forward = _boundary_score(cosine, indices, code, position[a], position[b])
        reverse, n_reverse = _boundary_score(cosine, indices, code, position[b], position[a])
        rows.append((a, b, forward, reverse, (forward - reverse) / 2, n_forward, n_reverse))
    columns = ["source", "target", "forward", "reverse", "contrast", "n_forward", "n_reverse"]
    return pd.DataFrame(rows, columns=columns)


def iccoh(x: Any, velocity: Any, labels: Any, *, neighbors: Any | None = None, k: int = 15) -> pd.DataFrame:
    r"""In-cluster coherence: cosine between the velocities of a cell and of its neighbors in the same group.

    .. math:: I(A) = \frac{1}{|A'|} \sum_{c \in A'} \frac{1}{|N(c) \cap A|} \sum_{j \in N(c) \cap A} \cos(v_c, v_j) ,

    with A' the cells of A that have a neighbor in A. Constant velocities have the score 1, whatever their direction:
    use it together with :func:`cbdir`.

    Series and DataFrames are matched by the names of their rows, arrays by position.

    Parameters
    ----------
    x
        (n, d) cells; only used to find neighbors.
    velocity
        (n, d) velocities of the cells. The cosine with a zero vector is 0.
    labels
        (n,) group of each cell.
    neighbors
        (n, m) positions of the neighbors of each cell, -1 for none; by default the `k` nearest in `x`.
    k
        Number of neighbors; fewer if there are fewer cells.

    Returns
    -------
    DataFrame with the group in the index: ``coherence``, and ``n_cells``, the number of cells with a neighbor in their
    group. The coherence of a group without such cells is NaN.

    Raises
    ------
    ValueError
        If shapes or the names of the cells differ, or an entry is not finite.

    Examples
    --------
    >>> iccoh([[0.0], [1.0], [2.0]], [[1.0], [1.0], [-1.0]], ["a", "a", "a"], k=1).loc["a", "n_cells"]
    np.int64(3)
    """
    x, velocity, labels = match_rows(x=x, velocity=velocity, labels=labels)
    points, velocities = _check_vectors(x=x, velocity=velocity)
    names, code = as_codes(labels, len(points), "labels")
    indices = _neighbor_indices(points, neighbors, k)
    unit = unit_rows(velocities)
    cosine = np.empty(indices.shape)
    for rows in _row_blocks(indices, points):
        cosine[rows] = np.einsum("nd,nkd->nk", unit[rows], unit[indices[rows]])
    in_group = (code[indices] == code[:, None]) & (indices >= 0)
    mean, count = _row_means(cosine, in_group)
    scored = count > 0
    total = np.bincount(code[scored], weights=mean[scored], minlength=len(names))
    n_cells = np.bincount(code[scored], minlength=len(names))
    coherence = np.divide(total, n_cells, out=np.full(len(names), np.nan), where=n_cells > 0)
    return pd.DataFrame({"coherence": coherence, "n_cells": n_cells}, index=pd.Index(names, name="group"))


def direction_free(x: Any, k: int = 15, *, neighbors: Any | None = None) -> NDArray[np.float64]:
    """Velocity to the mean of the nearest cells, which has no direction in time: the baseline of :func:`cbdir`.

    Parameters
    ----------
    x
        (n, d) cells.
    k
        Number of neighbors; fewer if there are fewer cells.
    neighbors
        (n, m) positions of the neighbors of each cell, -1 for none; by default the `k` nearest in `x`.

    Returns
    -------
    (n, d) mean of the neighbors minus the cell; 0 for a cell without neighbors.

    Raises
    ------
    ValueError
        If an entry is not finite or `neighbors` does not fit.

    Examples
    --------
    >>> direction_free([[0.0], [1.0], [3.0]], k=1).ravel().tolist()
    [1.0, -1.0, -2.0]
    """
    points = as_points(x).astype(np.float64)
    indices = _neighbor_indices(points, neighbors, k)
    exists = indices >= 0
    velocity = np.zeros_like(points)
    for rows in _row_blocks(indices, points):
        steps = (points[indices[rows]] - points[rows, None]) * exists[rows, :, None]
        velocity[rows] = steps.sum(axis=1) / np.maximum(exists[rows].sum(axis=1), 1)[:, None]
    return velocity


def velocity_error(velocity: Any, truth: Any) -> VelocityError:
    """Compare the direction and the magnitude of velocities with the true ones, without rescaling.

    Series and DataFrames are matched by the names of their rows, arrays by position.

    Parameters
    ----------
    velocity
        (n, d) velocities. A zero vector has the cosine 0 and the magnitude error 1.
    truth
        (n, d) true velocities, in the same units per unit of time. Cells with a zero vector are not scored.

    Returns
    -------
    The scores.

    Raises
    ------
    ValueError
        If shapes or the names of the cells differ, an entry is not finite, or the truth is zero everywhere.

    Examples
    --------
    >>> velocity_error([[2.0, 0.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 2.0]])
    VelocityError(cosine=1.0, cosine_p05=1.0, magnitude=0.75, n_cells=2)
    """
    velocity, truth = match_rows(velocity=velocity, truth=truth)
    velocities, true = _check_vectors(velocity=velocity, truth=truth)
    speed = np.linalg.norm(true, axis=1)
    scored = speed > 0
    if not scored.any():
        raise ValueError("truth is zero in every cell: there is no direction to compare with.")
    velocities, true, speed = velocities[scored], true[scored], speed[scored]
    cosine = (unit_rows(velocities) * unit_rows(true)).sum(axis=1)
    error = np.abs(np.linalg.norm(velocities, axis=1) / speed - 1)
    return VelocityError(
        float(cosine.mean()), float(np.quantile(cosine, 0.05)), float(np.median(error)), int(scored.sum())
    )


def _check_vectors(**arrays: Any) -> list[NDArray[np.float64]]:
    """Convert two named arrays to float64; raise a ValueError unless both are finite and of the same shape (n, d)."""
    vectors = {name: real_numbers(values, name) for name, values in arrays.items()}
    (first, x), (second, y) = vectors.items()
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"{first} has shape {x.shape} and {second} {y.shape}: both must be (n, d).")
    for name, values in vectors.items():
        n_bad = int((~np.isfinite(values)).any(axis=1).sum())
        if n_bad:
            raise ValueError(f"{name} has {n_bad} rows with a value that is not finite: leave those cells out.")
    return [x, y]


def _neighbor_indices(points: NDArray[np.float64], neighbors: Any | None, k: int) -> NDArray[np.int64]:
    n = len(points)
    if neighbors is None:
        if n < 2 or k < 1:
            raise ValueError(f"x has {n} cells and k={k}: neighbors need at least 2 cells and k of at least 1.")
        return knn(points, min(k, n - 1)).indices
    indices = np.asarray(neighbors)
    if indices.ndim != 2 or len(indices) != n or indices.dtype.kind not in "iu":
        raise ValueError(f"neighbors is {indices.dtype} {indices.shape}: give integer positions (n, m) of {n} cells.")
    if indices.size and (indices.min() < -1 or indices.max() >= n):
        raise ValueError(f"neighbors must be in -1..{n - 1}, but are from {indices.min()} to {indices.max()}.")
    return indices.astype(np.int64)


def _row_blocks(indices: NDArray[np.int64], points: NDArray[np.float64]) -> list[slice]:
    step = max(1, _BLOCK // max(indices.shape[1] * points.shape[1], 1))
    return [slice(start, start + step) for start in range(0, len(indices), step)]


def _cosines(
    points: NDArray[np.float64], velocities: NDArray[np.float64], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cosine (n, m) between the step to each neighbor and the velocity."""
    unit, cosine = unit_rows(velocities), np.empty(indices.shape)
    for rows in _row_blocks(indices, points):
        cosine[rows] = np.einsum("nkd,nd->nk", unit_rows(points[indices[rows]] - points[rows, None]), unit[rows])
    return cosine


def _row_means(values: NDArray[np.float64], use: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean over the used entries of each row, 0 without any, and their number."""
    count = use.sum(axis=1)
    return (values * use).sum(axis=1) / np.maximum(count, 1), count


def _boundary_score(
    cosine: NDArray[np.float64], indices: NDArray[np.int64], code: NDArray[np.int64], a: int, b: int
) -> tuple[float, int]:
    """Mean over the cells of group `a` with a neighbor in group `b`, and the number of these cells."""
    cells = code == a
    mean, count = _row_means(cosine[cells], (code[indices[cells]] == b) & (indices[cells] >= 0))
    n_cells = int((count > 0).sum())
    return (float(mean[count > 0].mean()), n_cells) if n_cells else (float("nan"), 0)
