"""Scores of a velocity field: against known directions between groups, its neighbours, and a known field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._arrays import unit_rows
from muport.neighbors import as_points, knn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_BLOCK = 2**22  # differences held at once (cells x neighbours x dimensions)


@dataclass(frozen=True)
class VelocityError:
    """How far a velocity is from the true one.

    Attributes
    ----------
    cosine
        Mean cosine between both.
    cosine_p05
        5th percentile of the cosine over cells.
    magnitude
        Median over cells of ``| |v| / |u| - 1 |``, u the truth: .1 is ten per cent too long or too short.
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
    r"""Cross-boundary direction correctness of known transitions, the same on the reversed edge, and their contrast.

    For an edge A -> B the boundary cells are those of A with a neighbour in B. With N(c) the neighbours of c,

    .. math:: D(A \to B) = \frac{1}{|\partial A|} \sum_{c \in \partial A} \frac{1}{|N(c) \cap B|}
              \sum_{j \in N(c) \cap B} \cos(x_j - x_c, v_c) .

    This is the classic score (Qiao and Huang, PNAS 2021, as computed in latent space). It rewards a velocity that
    points to the nearest cells whatever their time: such a field (:func:`direction_free`) scores high on A -> B *and*
    on B -> A. What knows the direction is the contrast, (D(A -> B) - D(B -> A)) / 2: 0 for a field without direction,
    the negative for the reversed field.

    Parameters
    ----------
    x
        (n, d) cells.
    velocity
        (n, d) their velocities, in the space of `x`. A zero vector has cosine 0 with everything.
    labels
        (n,) group of each cell.
    edges
        Pairs (A, B) of groups: cells of A become cells of B.
    neighbors
        (n, m) positions of each cell's neighbours, -1 for none; by default the `k` nearest in `x`.
    k
        Number of neighbours; fewer if there are fewer cells.

    Returns
    -------
    DataFrame, one row for each edge: ``source``, ``target``, ``forward``, ``reverse``, ``contrast``, and the numbers of
    boundary cells ``n_forward`` and ``n_reverse``. NaN where groups do not touch.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, or there is no edge.
    KeyError
        If an edge names a group without cells.

    Examples
    --------
    >>> x = [[0.0], [1.0], [2.0], [3.0]]
    >>> cbdir(x, [[1.0]] * 4, ["a", "a", "b", "b"], [("a", "b")], k=2)["contrast"].tolist()
    [1.0]
    """
    points, flow = _pair(x, velocity)
    code, names = _groups(labels, len(points))
    wanted = [(str(a), str(b)) for a, b in edges]
    if not wanted:
        raise ValueError("edges is empty: give at least one pair of groups.")
    unknown = sorted({name for edge in wanted for name in edge} - set(names))
    if unknown:
        raise KeyError(f"edges name {unknown}, but the groups are {names.tolist()}.")
    found = _neighbors(points, neighbors, k)
    cosine = _cosines(points, flow, found)
    position = {name: i for i, name in enumerate(names)}
    rows = []
    for a, b in wanted:
        forward, n_forward = _boundary(cosine, found, code, position[a], position[b])
        reverse, n_reverse = _boundary(cosine, found, code, position[b], position[a])
        rows.append((a, b, forward, reverse, (forward - reverse) / 2, n_forward, n_reverse))
    columns = ["source", "target", "forward", "reverse", "contrast", "n_forward", "n_reverse"]
    return pd.DataFrame(rows, columns=columns)


def iccoh(x: Any, velocity: Any, labels: Any, *, neighbors: Any | None = None, k: int = 15) -> pd.DataFrame:
    r"""In-cluster coherence: cosine between a cell's velocity and that of its neighbours in the same group.

    .. math:: I(A) = \frac{1}{|A'|} \sum_{c \in A'} \frac{1}{|N(c) \cap A|} \sum_{j \in N(c) \cap A} \cos(v_c, v_j) ,

    A' the cells of A with a neighbour in A. A field that is constant, or only smooth, scores 1: read it beside
    :func:`cbdir`.

    Parameters
    ----------
    x
        (n, d) cells; only used to find neighbours.
    velocity
        (n, d) their velocities. A zero vector has cosine 0 with everything.
    labels
        (n,) group of each cell.
    neighbors
        (n, m) positions of each cell's neighbours, -1 for none; by default the `k` nearest in `x`.
    k
        Number of neighbours; fewer if there are fewer cells.

    Returns
    -------
    DataFrame with the group in the index: ``coherence`` and ``n_cells``, the number of cells with a neighbour in their
    group (coherence is NaN where that is 0).

    Raises
    ------
    ValueError
        If shapes differ or an entry is not finite.

    Examples
    --------
    >>> iccoh([[0.0], [1.0], [2.0]], [[1.0], [1.0], [-1.0]], ["a", "a", "a"], k=1).loc["a", "n_cells"]
    np.int64(3)
    """
    points, flow = _pair(x, velocity)
    code, names = _groups(labels, len(points))
    found = _neighbors(points, neighbors, k)
    unit = unit_rows(flow)
    cosine = np.empty(found.shape)
    for part in _parts(len(points), found.shape[1] * points.shape[1]):
        cosine[part] = np.einsum("nd,nkd->nk", unit[part], unit[found[part]])
    same = (code[found] == code[:, None]) & (found >= 0)
    mean, count = _row_means(cosine, same)
    seen = count > 0
    total = np.bincount(code[seen], weights=mean[seen], minlength=len(names))
    n_cells = np.bincount(code[seen], minlength=len(names))
    coherence = np.divide(total, n_cells, out=np.full(len(names), np.nan), where=n_cells > 0)
    return pd.DataFrame({"coherence": coherence, "n_cells": n_cells}, index=pd.Index(names, name="group"))


def direction_free(x: Any, k: int = 15, *, neighbors: Any | None = None) -> NDArray[np.float64]:
    """Velocity that points to the mean of the nearest cells and knows no direction: the null of :func:`cbdir`.

    Parameters
    ----------
    x
        (n, d) cells.
    k
        Number of neighbours; fewer if there are fewer cells.
    neighbors
        (n, m) positions of each cell's neighbours, -1 for none; by default the `k` nearest in `x`.

    Returns
    -------
    (n, d) mean of the neighbours minus the cell; 0 for a cell without neighbours.

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
    found = _neighbors(points, neighbors, k)
    there = found >= 0
    out = np.zeros_like(points)
    for part in _parts(len(points), found.shape[1] * points.shape[1]):
        step = (points[found[part]] - points[part, None]) * there[part, :, None]
        out[part] = step.sum(axis=1) / np.maximum(there[part].sum(axis=1), 1)[:, None]
    return out


def velocity_error(velocity: Any, truth: Any) -> VelocityError:
    """Compare a velocity with the true one, direction and magnitude, without rescaling.

    Parameters
    ----------
    velocity
        (n, d) velocities. A zero vector has cosine 0 and magnitude error 1.
    truth
        (n, d) true velocities, in the same units per unit of time. Cells where it is zero are not scored.

    Returns
    -------
    The scores.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, or the truth is zero everywhere.

    Examples
    --------
    >>> velocity_error([[2.0, 0.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 2.0]])
    VelocityError(cosine=1.0, cosine_p05=1.0, magnitude=0.75, n_cells=2)
    """
    flow, true = _pair(velocity, truth, ("velocity", "truth"))
    length = np.linalg.norm(true, axis=1)
    moving = length > 0
    if not moving.any():
        raise ValueError("truth is zero in every cell: there is no direction to compare with.")
    flow, true, length = flow[moving], true[moving], length[moving]
    cosine = (unit_rows(flow) * unit_rows(true)).sum(axis=1)
    error = np.abs(np.linalg.norm(flow, axis=1) / length - 1)
    return VelocityError(
        float(cosine.mean()), float(np.quantile(cosine, 0.05)), float(np.median(error)), int(moving.sum())
    )


def _pair(
    x: Any, velocity: Any, names: tuple[str, str] = ("x", "velocity")
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, flow = (np.asarray(values, dtype=np.float64) for values in (x, velocity))
    if points.ndim != 2 or points.shape != flow.shape:
        raise ValueError(f"{names[0]} has shape {points.shape} and {names[1]} {flow.shape}: both must be (n, d).")
    for name, values in zip(names, (points, flow), strict=True):
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        if bad:
            raise ValueError(f"{name} has {bad} rows with a value that is not finite: leave those cells out.")
    return points, flow


def _groups(labels: Any, n: int) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    texts = np.asarray(labels).astype(str)
    if texts.shape != (n,):
        raise ValueError(f"labels has shape {texts.shape}, but x has {n} cells: give one value for each.")
    names, code = np.unique(texts, return_inverse=True)
    return code.astype(np.int64), names


def _neighbors(points: NDArray[np.float64], neighbors: Any | None, k: int) -> NDArray[np.int64]:
    n = len(points)
    if neighbors is None:
        if n < 2 or k < 1:
            raise ValueError(f"x has {n} cells and k={k}: neighbours need at least 2 cells and k of at least 1.")
        return knn(points, min(k, n - 1)).indices
    found = np.asarray(neighbors)
    if found.ndim != 2 or len(found) != n or found.dtype.kind not in "iu":
        raise ValueError(f"neighbors is {found.dtype} {found.shape}: give integer positions (n, m) of {n} cells.")
    if found.size and (found.min() < -1 or found.max() >= n):
        raise ValueError(f"neighbors must lie in -1..{n - 1}, but go from {found.min()} to {found.max()}.")
    return found.astype(np.int64)


def _parts(n: int, width: int) -> list[slice]:
    step = max(1, _BLOCK // max(width, 1))
    return [slice(start, start + step) for start in range(0, n, step)]


def _cosines(points: NDArray[np.float64], flow: NDArray[np.float64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, m) cosine between the step to each neighbour and the velocity."""
    unit, out = unit_rows(flow), np.empty(found.shape)
    for part in _parts(len(points), found.shape[1] * points.shape[1]):
        out[part] = np.einsum("nkd,nd->nk", unit_rows(points[found[part]] - points[part, None]), unit[part])
    return out


def _row_means(values: NDArray[np.float64], use: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    count = use.sum(axis=1)
    return (values * use).sum(axis=1) / np.maximum(count, 1), count


def _boundary(
    cosine: NDArray[np.float64], found: NDArray[np.int64], code: NDArray[np.int64], a: int, b: int
) -> tuple[float, int]:
    """Mean over the cells of `a` with a neighbour in `b`, and their number."""
    cells = code == a
    mean, count = _row_means(cosine[cells], (code[found[cells]] == b) & (found[cells] >= 0))
    n = int((count > 0).sum())
    return (float(mean[count > 0].mean()), n) if n else (float("nan"), 0)
