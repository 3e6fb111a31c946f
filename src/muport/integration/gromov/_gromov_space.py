"""Modalities without shared features or pairs, brought into one space by Gromov-Wasserstein transport."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._parallel import single_threaded
from muport.integration.gromov._cell_geometry import Frame, geometry, place
from muport.integration.gromov._gromov_plans import choose, refine
from muport.integration.prototypes._prototypes import soft_assign
from muport.neighbors import as_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from muport.integration.gromov._cell_geometry import Geometry
    from muport.integration.gromov._gromov_plans import Choice

__all__ = ["Bridge", "confidence", "cross", "fit_bridge"]

_AMBIGUOUS = 0.1  # margin below which another alignment is as likely
_UNSTABLE, _DISTORTED = 0.5, 0.03  # stability below which runs disagree on the plan, if its objective is above
_RIDGE = 0.01  # of the linear part, over the mean variance of a coordinate
_PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True, eq=False)
class Bridge:
    """Way of every modality into the common space, which is the hub's own.

    Attributes
    ----------
    hub
        Modality whose coordinates the common space has.
    frames
        Modality -> its metric, mean and scale.
    points
        Modality but the hub -> (n, d_m) points of it, in its frame.
    image
        Modality but the hub -> (n, D) where they lie in the common space.
    slope
        Modality but the hub -> (d_m, D) linear part of the way there.
    offset
        Modality but the hub -> (D,) constant of the linear part.
    figures
        See :func:`confidence`.
    """

    hub: str
    frames: dict[str, Frame]
    points: dict[str, NDArray[np.float32]]
    image: dict[str, NDArray[np.float32]]
    slope: dict[str, NDArray[np.float32]]
    offset: dict[str, NDArray[np.float32]]
    figures: dict[str, Any]


def fit_bridge(
    views: Mapping[str, NDArray[np.float32]],
    *,
    random_state: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> Bridge:
    """Align two or more modalities that share neither features nor cells.

    Distances inside each modality are compared, never cells of two: steps in neighbour graphs of 3 % and 10 % of the
    points, and straight distances, each by the Euclidean and by the cosine metric. Every pair of modalities is aligned
    between prototypes in every such setting from several starts; the plan with the most evidence over all settings is
    refined between cells. The metric of each modality is the one in which the chosen plans distort least.
    The hub is the modality in which the images of the others keep most of their variance. Masses are cells: types in
    different proportions are matched worse, and mirror images of equal size cannot be told apart by any such method.

    Parameters
    ----------
    views
        Modality -> (n_m, d_m) representation of its cells. Neither the order of the modalities nor that of the cells
        matters.
    random_state
        Seed.
    device
        Torch device.
    progress
        Called with a line of text at each step.

    Returns
    -------
    Bridge
        The fitted state, of at most 1,200 points a modality.

    Warns
    -----
    UserWarning
        If an alignment is ambiguous: one that sends cells elsewhere has over 90 % of its evidence; or if it is
        uncertain: distances fit badly, and the best plans of other settings share less than half of its mass, as where
        proportions differ.

    Raises
    ------
    ValueError
        If there are fewer than two modalities, or one is constant, has too few cells or an entry that is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = (rng.beta(1, 3, size=(60, 1)) * [[1, 2, 3]]).astype(np.float32)
    >>> bridge = fit_bridge({"rna": x, "atac": x[:, :2] * 2})
    >>> cross(bridge, "rna", x).shape == cross(bridge, "atac", x[:, :2] * 2).shape
    True

    References
    ----------
    Memoli (2011), Gromov-Wasserstein distances and the metric approach to object matching. Demetci et al. (2022),
    SCOT, for geodesic distances and the barycentric projection.
    """
    if len(views) < 2:
        raise ValueError(f"views has {len(views)} modalities {tuple(views)}: a bridge needs two or more.")
    with single_threaded():
        known: dict[str, Geometry] = {}
        for name in sorted(views):
            progress(f"distances within {name}")
            known[name] = geometry(name, views[name], random_state)
        chosen: dict[tuple[str, str], Choice] = {}
        for a, b in combinations(known, 2):
            progress(f"aligning {a} with {b}")
            chosen[a, b] = choose(known[a], known[b], random_state, device)
        metrics = _metrics(known, chosen)
        fine, objective = {}, {}
        for (a, b), choice in chosen.items():
            progress(f"refining {a} with {b}")
            fine[a, b], objective[a, b] = refine(known[a], known[b], (metrics[a], metrics[b]), choice.plan, device)
        _warn_of_doubt(chosen, objective)
    return _assemble(known, metrics, fine, _figures(chosen, objective, metrics))


def cross(bridge: Bridge, modality: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring cells of a modality into the common space, each by itself.

    Parameters
    ----------
    bridge
        Fitted state.
    modality
        Name of the modality.
    x
        (n, d_m) cells, in the representation of the fit.

    Returns
    -------
    (n, D) float32: for the hub its standardised coordinates, else the midpoint of two estimates of the way there: the
    mean image of the nearest fitted points, weighted by a kernel, and the linear regression of all images on their
    points. The first follows bends, the second keeps what differs between near cells, which transport blurs.

    Raises
    ------
    KeyError
        If the bridge does not know the modality.
    ValueError
        If the width of `x` is not that of the modality, or an entry is not finite.
    """
    if modality not in bridge.frames:
        raise KeyError(f"{modality!r} is not one of the bridge's modalities {tuple(bridge.frames)}.")
    cells, known = as_points(x, modality), bridge.frames[modality]
    if cells.shape[1] != len(known.center):
        raise ValueError(f"{modality} has {cells.shape[1]} columns, but was fitted on {len(known.center)}.")
    placed = place(cells, known)
    if modality == bridge.hub:
        return placed
    near, weight = soft_assign(placed, bridge.points[modality])
    local = np.einsum("nk,nkd->nd", weight, bridge.image[modality][near])
    linear = placed @ bridge.slope[modality] + bridge.offset[modality]
    return np.ascontiguousarray((local + linear) / 2, dtype=np.float32)


def confidence(bridge: Bridge) -> dict[str, Any]:
    """Tell how far to trust a bridge, from what it was fitted on alone.

    Returns
    -------
    dict
        ``hub``; for each modality its ``metric``; for each pair ``objective`` (mean squared distortion of the unit-RMS
        distances, 0 for an isometry), ``stability`` (mass that the best plans of other settings share with the chosen
        one, 1 is best), ``margin`` (what the best plan that sends cells elsewhere lacks in evidence, 0 to 1: near 0 is
        ambiguous) and ``kept`` (variance of the images over that of the hub).
    """
    return dict(bridge.figures)


def _warn_of_doubt(chosen: dict[tuple[str, str], Choice], objective: dict[tuple[str, str], float]) -> None:
    for (a, b), choice in chosen.items():
        if choice.margin < _AMBIGUOUS:
            found = f"ambiguous (margin {choice.margin:.2f} of 1): another one fits their distances as well,"
        elif choice.stability < _UNSTABLE and objective[a, b] > _DISTORTED:
            found = f"uncertain (stability {choice.stability:.2f} of 1): descriptions of their geometry disagree,"
        else:
            continue
        warnings.warn(
            f"The alignment of {a} with {b} is {found} so types may be exchanged. Give a representation both share "
            "(shared_rep), or some cells measured in both.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def _metrics(known: dict[str, Geometry], chosen: dict[tuple[str, str], Choice]) -> dict[str, str]:
    """Metric of each modality: together the least distortion of the chosen plans, averaged over the graphs."""

    def distortion(metrics: dict[str, str]) -> float:
        return sum(
            value
            for (a, b), choice in chosen.items()
            for (x, y, _), value in choice.value.items()
            if (x, y) == (metrics[a], metrics[b])
        )

    combined = product(*(one.frames for one in known.values()))
    return min((dict(zip(known, metrics, strict=True)) for metrics in combined), key=distortion)


def _assemble(
    known: dict[str, Geometry],
    metrics: dict[str, str],
    fine: dict[tuple[str, str], NDArray[np.float32]],
    figures: dict[str, Any],
) -> Bridge:
    images = {hub: _images(hub, known, metrics, fine) for hub in known}
    kept = {hub: {name: _kept(image, known[name].mass) for name, image in images[hub].items()} for hub in known}
    hub = max(known, key=lambda one: float(np.mean(list(kept[one].values()))))
    figures = {"hub": hub, **figures, **{f"kept {name} in {hub}": share for name, share in kept[hub].items()}}
    points = {name: one.points[metrics[name]] for name, one in known.items() if name != hub}
    linear = {name: _linear(points[name], image, known[name].mass) for name, image in images[hub].items()}
    return Bridge(
        hub,
        {name: one.frames[metrics[name]] for name, one in known.items()},
        points,
        images[hub],
        {name: slope for name, (slope, _) in linear.items()},
        {name: offset for name, (_, offset) in linear.items()},
        figures,
    )


def _images(
    hub: str, known: dict[str, Geometry], metrics: dict[str, str], fine: dict[tuple[str, str], NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Barycentric projection of every other modality's points into the frame of `hub`."""
    target = known[hub].points[metrics[hub]]
    out = {}
    for name in known:
        if name != hub:
            plan = fine[name, hub] if (name, hub) in fine else fine[hub, name].T
            out[name] = np.ascontiguousarray(plan @ target / plan.sum(axis=1, keepdims=True), dtype=np.float32)
    return out


def _linear(
    x: NDArray[np.float32], image: NDArray[np.float32], mass: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(d, D) slope and (D,) offset of the ridge regression of images on points, both weighted by mass."""
    center, offset = mass @ x, mass @ image
    spread = ((x - center) * mass[:, None]).T @ (x - center)
    penalty = _RIDGE * np.trace(spread) / len(spread) * np.eye(len(spread))
    slope = np.linalg.solve(spread + penalty, ((x - center) * mass[:, None]).T @ (image - offset))
    return slope.astype(np.float32), (offset - center @ slope).astype(np.float32)


def _kept(image: NDArray[np.float32], mass: NDArray[np.float64]) -> float:
    """Variance of the images, over that of the hub, which is 1."""
    return float(mass @ np.square(image - mass @ image).sum(axis=1))


def _figures(
    chosen: dict[tuple[str, str], Choice], objective: dict[tuple[str, str], float], metrics: dict[str, str]
) -> dict[str, Any]:
    figures: dict[str, Any] = {f"metric {name}": metric for name, metric in metrics.items()}
    for (a, b), choice in chosen.items():
        figures[f"objective {a}-{b}"] = objective[a, b]
        figures[f"stability {a}-{b}"] = choice.stability
        figures[f"margin {a}-{b}"] = choice.margin
    return figures
