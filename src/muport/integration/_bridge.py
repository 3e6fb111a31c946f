"""Modalities without shared features or pairs, brought into one space by Gromov-Wasserstein transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from muport.integration._prototypes import soft_assign
from muport.neighbors import as_points, kmeans, knn
from muport.ot import solve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["Bridge", "confidence", "cross", "fit_bridge"]

_MOST = 200  # prototypes of a modality
_GRAPH = 10  # neighbours in the graph of prototypes


@dataclass(frozen=True, eq=False)
class Bridge:
    """Way of every modality into the common space: its prototypes and where they lie there.

    Attributes
    ----------
    hub
        Modality whose coordinates the common space has.
    center, scale
        Modality -> (d_m,) mean and one number, the root mean square distance from it.
    points
        Modality -> (P_m, d_m) standardised prototypes.
    image
        Modality -> (P_m, D) their place in the common space.
    figures
        See :func:`confidence`.
    """

    hub: str
    center: dict[str, NDArray[np.float32]]
    scale: dict[str, float]
    points: dict[str, NDArray[np.float32]]
    image: dict[str, NDArray[np.float32]]
    figures: dict[str, float]


def fit_bridge(
    views: Mapping[str, NDArray[np.float32]],
    *,
    random_state: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> Bridge:
    """Align two or more modalities that share neither features nor cells.

    Parameters
    ----------
    views
        Modality -> (n_m, d_m) representation of its cells.
    random_state
        Seed.
    device
        Torch device.
    progress
        Called with a line of text at each step.

    Raises
    ------
    ValueError
        If there are fewer than two modalities, or one is constant, has too few cells or an entry that is not finite.
    """
    if len(views) < 2:
        raise ValueError(f"views has {len(views)} modalities ({', '.join(views)}): a bridge needs two or more.")
    center, scale, points, mass, structure = {}, {}, {}, {}, {}
    for name, given in views.items():
        x = as_points(given, name)
        center[name] = x.mean(axis=0)
        scale[name] = float(np.sqrt(np.square(x - center[name]).sum(1).mean()))
        if len(x) < 3 or scale[name] == 0:
            raise ValueError(f"{name} has {len(x)} cells with spread {scale[name]}: there is no structure to align.")
        x = np.ascontiguousarray((x - center[name]) / scale[name])
        found = kmeans(x, min(_MOST, max(3, len(x) // 3)), random_state=random_state)
        points[name], mass[name] = found.centers, np.bincount(found.labels).astype(np.float64) / len(x)
        structure[name] = _geodesics(found.centers)
    hub = min(views, key=lambda name: len(points[name]) * 0 + list(views).index(name))
    image, figures = {hub: points[hub]}, {}
    for name in views:
        if name != hub:
            progress(f"aligning {name} with {hub}")
            result = solve(
                cx=structure[name], cy=structure[hub], a=mass[name], b=mass[hub], method="gromov", reg=0.001,
                n_restarts=3, max_iter=30, random_state=random_state, cost=np.zeros((len(mass[name]), len(mass[hub]))),
            )  # fmt: skip
            plan = result.plan.numpy()
            image[name] = (plan @ points[hub] / plan.sum(1, keepdims=True)).astype(np.float32)
            figures[f"{name}: objective"] = float(result.objective)
    return Bridge(hub, center, scale, points, image, figures)


def _geodesics(x: NDArray[np.float32]) -> NDArray[np.float64]:
    found = knn(x, min(_GRAPH, len(x) - 1), method="exact")
    n, k = found.indices.shape
    graph = csr_array((found.distances.ravel(), (np.repeat(np.arange(n), k), found.indices.ravel())), shape=(n, n))
    distance: NDArray[np.float64] = dijkstra(graph, directed=False)
    distance[~np.isfinite(distance)] = 1.5 * distance[np.isfinite(distance)].max()
    return distance / distance.max()


def cross(bridge: Bridge, modality: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) place of cells (n, d_m) of a modality in the common space, a function of each cell alone.

    Raises
    ------
    KeyError
        If the bridge does not know the modality.
    ValueError
        If the width of `x` is not that of the modality, or an entry is not finite.
    """
    if modality not in bridge.points:
        raise KeyError(f"{modality!r} is not one of the bridge's modalities ({', '.join(bridge.points)}).")
    cells = as_points(x, modality)
    if cells.shape[1] != len(bridge.center[modality]):
        raise ValueError(f"{modality} has {cells.shape[1]} columns, but was fitted on {len(bridge.center[modality])}.")
    cells = np.ascontiguousarray((cells - bridge.center[modality]) / bridge.scale[modality])
    if modality == bridge.hub:
        return cells
    near, weight = soft_assign(cells, bridge.points[modality])
    placed: NDArray[np.float32] = np.einsum("nk,nkd->nd", weight, bridge.image[modality][near])
    return placed


def confidence(bridge: Bridge) -> dict[str, Any]:
    """Unsupervised figures of the alignment."""
    return dict(bridge.figures)
