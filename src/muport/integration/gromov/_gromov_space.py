"""The common space of modalities without shared features or paired cells, by Gromov-Wasserstein transport."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from muport._parallel import single_threaded
from muport.integration.gromov._cell_geometry import MetricScaling, compute_geometry, scale_cells
from muport.integration.gromov._gromov_plans import choose_plan, refine_plan
from muport.integration.prototypes._prototypes import soft_assign
from muport.neighbors import as_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from muport.integration.gromov._cell_geometry import ModalityGeometry
    from muport.integration.gromov._gromov_plans import PrototypePlan

    #: Modality -> its geometry.
    Geometries = Mapping[str, ModalityGeometry]
    #: Two modalities -> plan between their points.
    PointPlans = Mapping[tuple[str, str], NDArray[np.float32]]

__all__ = ["GromovSpace", "fit_gromov_space", "map_to_hub", "summarize_alignment"]

_AMBIGUOUS = 0.1  # margin below which a different alignment is as likely
_UNSTABLE, _DISTORTED = 0.5, 0.03  # an alignment is uncertain if its stability is below, and its objective above
_RIDGE = 0.01  # penalty of the linear regression, over the mean variance of a coordinate
_PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True, eq=False)
class GromovSpace:
    """Maps of all modalities to the space of one of them, the hub.

    - `hub`: Modality whose standardized coordinates are the common space.
    - `scalings`: Modality -> its metric, mean and scale.
    - `points`: Modality, without the hub -> (n, d_m) standardized points of it.
    - `images`: Modality, without the hub -> (n, D) images of the points in the common space.
    - `slope`: Modality, without the hub -> (d_m, D) slope of the linear regression of images on points.
    - `offset`: Modality, without the hub -> (D,) offset of that regression.
    - `diagnostics`: How far to trust the alignment. ``"hub"``: the hub. ``"metric m"``: the metric of modality m. For
      each pair, ``"objective a-b"``: mean squared distortion of the distances of root mean square 1, 0 for an isometry;
      ``"distortion a-b"``: the same over that by chance, when every pair of cells is as likely;
      ``"stability a-b"``: mass that the best plans of the settings share with the chosen one, 1 is best; ``"margin
      a-b"``: evidence that the best different plan lacks, 0..1, near 0 is ambiguous. ``"kept m in hub"``: variance of
      the images over that of the hub.
    """

    hub: str
    scalings: dict[str, MetricScaling]
    points: dict[str, Annotated[NDArray[np.float32], "* *"]]
    images: dict[str, Annotated[NDArray[np.float32], "* D"]]
    slope: dict[str, Annotated[NDArray[np.float32], "* D"]]
    offset: dict[str, Annotated[NDArray[np.float32], "D"]]
    diagnostics: dict[str, Any]

    def check_consistency(self) -> None:
        """Raise a ValueError unless each modality but the hub has points, their images, and the regression."""
        width = len(self.scalings[self.hub].center)
        for name in self.scalings.keys() - {self.hub}:
            points, images, own = self.points[name], self.images[name], len(self.scalings[name].center)
            expected = ((len(points), own), (len(points), width), (own, width), (width,))
            shapes = (points.shape, images.shape, self.slope[name].shape, self.offset[name].shape)
            if shapes != expected:
                raise ValueError(f"the map of {name!r} has the shapes {shapes}, expected {expected}.")


def fit_gromov_space(
    views: Mapping[str, NDArray[np.float32]],
    *,
    random_state: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> GromovSpace:
    """Align two or more modalities that share neither features nor cells.

    Only distances within each modality are compared, never cells of two modalities. There are three distances: numbers
    of edges in neighbor graphs of 3 % and of 10 % of the points, and straight distances, each by the Euclidean and by
    the cosine metric. Each pair of modalities is aligned between prototypes in each such setting, from several plans;
    the plan with the most evidence over all settings is refined between cells. The metric of each modality is the one
    in which the chosen plans distort least. The hub is the modality in which the images of the others keep most of
    their variance.

    Masses are cells, so types in different proportions are matched worse. Mirror images of equal size cannot be
    distinguished by any such method.

    - `views`: Modality -> (n_m, d_m) representation of its cells. Neither the order of the modalities nor that of the
      cells matters.

    Returns the fitted space, of at most 1,200 points a modality.

    Warns
    -----
    UserWarning
        If an alignment is ambiguous: a different one has over 90 % of its evidence. If it is uncertain: the distances
        fit badly, and the best plans of the settings share less than half of its mass, for example because the
        proportions of types differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = (rng.beta(1, 3, size=(60, 1)) * [[1, 2, 3]]).astype(np.float32)
    >>> space = fit_gromov_space({"rna": x, "atac": x[:, :2] * 2})
    >>> map_to_hub(space, "rna", x).shape == map_to_hub(space, "atac", x[:, :2] * 2).shape
    True

    References
    ----------
    Memoli (2011), Gromov-Wasserstein distances and the metric approach to object matching. Demetci et al. (2022),
    SCOT, for geodesic distances and the barycentric projection.
    """
    if len(views) < 2:
        raise ValueError(f"views has {len(views)} modalities {tuple(views)}: an alignment needs two or more.")
    with single_threaded():
        geometries: dict[str, ModalityGeometry] = {}
        for name in sorted(views):
            progress(f"distances within {name}")
            geometries[name] = compute_geometry(name, views[name], random_state)
        plans: dict[tuple[str, str], PrototypePlan] = {}
        for a, b in combinations(geometries, 2):
            progress(f"aligning {a} with {b}")
            plans[a, b] = choose_plan(geometries[a], geometries[b], random_state, device)
        metrics = _choose_metrics(geometries, plans)
        point_plans, objective, by_chance = {}, {}, {}
        for (a, b), plan in plans.items():
            progress(f"refining {a} with {b}")
            point_plans[a, b], objective[a, b], by_chance[a, b] = refine_plan(
                geometries[a], geometries[b], (metrics[a], metrics[b]), plan.plan, device
            )
        _warn_if_unsure(plans, objective)
    return _assemble_space(geometries, metrics, point_plans, _collect_diagnostics(plans, objective, by_chance, metrics))


def map_to_hub(space: GromovSpace, modality: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map cells of a modality to the common space, each cell by itself.

    - `x`: (n, d_m) cells, in the representation of the fit.

    Returns (n, D) float32. For the hub, its standardized coordinates. For another modality, the mean of two estimates:
    the mean image of the nearest fitted points, weighted by a kernel, and the linear regression of all images on their
    points. The first follows curves; the second keeps differences between nearby cells, which transport blurs.
    """
    if modality not in space.scalings:
        raise KeyError(f"{modality!r} is not one of the modalities {tuple(space.scalings)} of the space.")
    cells, scaling = as_points(x, modality), space.scalings[modality]
    if cells.shape[1] != len(scaling.center):
        raise ValueError(f"{modality} has {cells.shape[1]} columns, but was fitted on {len(scaling.center)}.")
    scaled = scale_cells(cells, scaling)
    if modality == space.hub:
        return scaled
    neighbors, weight = soft_assign(scaled, space.points[modality])
    local = np.einsum("nk,nkd->nd", weight, space.images[modality][neighbors])
    linear = scaled @ space.slope[modality] + space.offset[modality]
    return np.ascontiguousarray((local + linear) / 2, dtype=np.float32)


def summarize_alignment(space: GromovSpace) -> dict[str, float]:
    """Return the least ``"stability"`` and ``"margin"``, and the largest ``"distortion"``, of any two modalities."""
    figures: dict[str, list[float]] = {"stability": [], "margin": [], "distortion": []}
    for name, value in space.diagnostics.items():
        figures.get(name.partition(" ")[0], []).append(value)
    return {
        "stability": min(figures["stability"]),
        "margin": min(figures["margin"]),
        "distortion": max(figures["distortion"]),
    }


def _warn_if_unsure(plans: dict[tuple[str, str], PrototypePlan], objective: dict[tuple[str, str], float]) -> None:
    for (a, b), plan in plans.items():
        if plan.margin < _AMBIGUOUS:
            problem = f"ambiguous (margin {plan.margin:.2f} of 1): another one fits their distances as well,"
        elif plan.stability < _UNSTABLE and objective[a, b] > _DISTORTED:
            problem = f"uncertain (stability {plan.stability:.2f} of 1): descriptions of their geometry disagree,"
        else:
            continue
        warnings.warn(
            f"The alignment of {a} with {b} is {problem} so types may be exchanged. Give a representation both share "
            "(shared_rep), or some cells measured in both.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def _choose_metrics(geometries: Geometries, plans: dict[tuple[str, str], PrototypePlan]) -> dict[str, str]:
    """Choose the metric of each modality: together they have the least distortion, averaged over the graphs."""

    def distortion(metrics: dict[str, str]) -> float:
        return sum(
            value
            for (a, b), plan in plans.items()
            for (x, y, _), value in plan.objectives.items()
            if (x, y) == (metrics[a], metrics[b])
        )

    combined = product(*(geometry.scalings for geometry in geometries.values()))
    return min((dict(zip(geometries, metrics, strict=True)) for metrics in combined), key=distortion)


def _assemble_space(
    geometries: Geometries, metrics: dict[str, str], point_plans: PointPlans, diagnostics: dict[str, Any]
) -> GromovSpace:
    images = {hub: _project_points(hub, geometries, metrics, point_plans) for hub in geometries}
    kept = {
        hub: {name: _compute_variance(image, geometries[name].mass) for name, image in images[hub].items()}
        for hub in geometries
    }
    hub = max(geometries, key=lambda name: float(np.mean(list(kept[name].values()))))
    diagnostics = {"hub": hub, **diagnostics, **{f"kept {name} in {hub}": kept[hub][name] for name in kept[hub]}}
    points = {name: geometry.points[metrics[name]] for name, geometry in geometries.items() if name != hub}
    linear = {name: _fit_linear(points[name], image, geometries[name].mass) for name, image in images[hub].items()}
    return GromovSpace(
        hub,
        {name: geometry.scalings[metrics[name]] for name, geometry in geometries.items()},
        points,
        images[hub],
        {name: slope for name, (slope, _) in linear.items()},
        {name: offset for name, (_, offset) in linear.items()},
        diagnostics,
    )


def _project_points(
    hub: str, geometries: Geometries, metrics: dict[str, str], point_plans: PointPlans
) -> dict[str, NDArray[np.float32]]:
    """Project the points of each other modality to the space of `hub`: barycentric projection."""
    target = geometries[hub].points[metrics[hub]]
    images = {}
    for name in geometries:
        if name != hub:
            plan = point_plans[name, hub] if (name, hub) in point_plans else point_plans[hub, name].T
            images[name] = np.ascontiguousarray(plan @ target / plan.sum(axis=1, keepdims=True), dtype=np.float32)
    return images


def _fit_linear(
    x: NDArray[np.float32], image: NDArray[np.float32], mass: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit the slope (d, D) and offset (D,) of the ridge regression of images on points, weighted by mass."""
    center, offset = mass @ x, mass @ image
    covariance = ((x - center) * mass[:, None]).T @ (x - center)
    penalty = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    slope = np.linalg.solve(covariance + penalty, ((x - center) * mass[:, None]).T @ (image - offset))
    return slope.astype(np.float32), (offset - center @ slope).astype(np.float32)


def _compute_variance(image: NDArray[np.float32], mass: NDArray[np.float64]) -> float:
    """Compute the variance of the images (n, D); that of the hub is 1."""
    return float(mass @ np.square(image - mass @ image).sum(axis=1))


def _collect_diagnostics(
    plans: Mapping[tuple[str, str], PrototypePlan],
    objective: Mapping[tuple[str, str], float],
    by_chance: Mapping[tuple[str, str], float],
    metrics: Mapping[str, str],
) -> dict[str, Any]:
    diagnostics: dict[str, Any] = {f"metric {name}": metric for name, metric in metrics.items()}
    for (a, b), plan in plans.items():
        diagnostics[f"objective {a}-{b}"] = objective[a, b]
        diagnostics[f"distortion {a}-{b}"] = objective[a, b] / max(by_chance[a, b], float(np.finfo(np.float32).tiny))
        diagnostics[f"stability {a}-{b}"] = plan.stability
        diagnostics[f"margin {a}-{b}"] = plan.margin
    return diagnostics
