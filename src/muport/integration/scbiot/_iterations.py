"""The iterations of the scBIOT paper: one move of the landmarks after the other, and the selection by J."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport.integration.scbiot._move_limits import build_edges, cap_moves, compute_moments, guard_edges, postscale
from muport.integration.scbiot._proposed_moves import (
    REG,
    REG_M,
    compute_bridge_scores,
    compute_damping,
    compute_density_weights,
    compute_label_shift,
    compute_sharpening_shift,
    interpolate_limits,
    transport_to_barycenters,
)
from muport.integration.scbiot._schedule import anneal_settings
from muport.integration.shared_centers._diagnostics import diagnose
from muport.integration.shared_centers._transport import weighted_rms
from muport.neighbors import kmeans, knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.scbiot._move_limits import Edges
    from muport.integration.scbiot._proposed_moves import Floats, Indices
    from muport.integration.scbiot._schedule import ScbiotSettings
    from muport.integration.shared_centers._transport import History

__all__ = ["Iterate", "ScbiotProblem", "run_iterations", "build_problem", "score_iterate"]

_LOCAL_NEIGHBORS, _GRAPH_NEIGHBORS = 15, 20  # of Eqs 1 and 8, and of the graph of Eqs 13 and 15
# largest numbers of prototypes of a group and of the reference, and the number of centers of the sharpening
_BATCH_CENTERS, _REFERENCE_CENTERS, _SHARPENING_CENTERS = 512, 1024, 28
_SHARPENING_STEP, _PULL, _PUSH = 0.22, 0.78, 0.34
_LABEL_PULL, _LABEL_PUSH = 0.60, 0.18
_BRIDGE_DAMPING = 0.35  # of Eq. 6
_SMOOTHED_QUANTILE = 0.85  # of the sparsity: above it, shifts are not smoothed
_SCORED_LANDMARKS = 2_500  # on which J is computed
_PATIENCE = 3  # iterations without progress after which the iterations stop
_GAIN, _MASS_GAIN = 1e-3, 5e-3  # of J and of the transported mass, which count as progress


@dataclass(frozen=True, eq=False)
class ScbiotProblem:
    """What is the same in all iterations.

    - `landmarks`: Landmarks of all groups: their input positions and masses.
    - `label`: (L,) labels, -1 where unknown; None without labels.
    - `edges`: Neighbor graph of the input.
    - `smoother`: (L, L) mean over the neighbors in the input.
    - `spacing`: (L,) mean distance to the neighbors in the input.
    - `free`: (L,) landmarks that may move: those of groups that do not stay in place.
    - `free_groups`: Rows of each group that may move.
    - `scored_rows`: Landmarks on which J is computed.
    - `hyperparameters`, `options`: How to fit.
    """

    landmarks: Prototypes
    label: Indices | None
    edges: Edges
    smoother: csr_array
    spacing: Floats
    free: NDArray[np.bool_]
    free_groups: tuple[slice, ...]
    scored_rows: Indices
    hyperparameters: Hyperparameters
    options: FitOptions


def build_problem(
    landmarks: Prototypes, label: Indices | None, hyperparameters: Hyperparameters, options: FitOptions
) -> ScbiotProblem:
    """Compute the neighbor graph of the input, and choose the landmarks on which every iteration is scored."""
    n, fixed = len(landmarks.position), options.fixed_groups
    graph = knn(landmarks.position, min(_GRAPH_NEIGHBORS, n - 1), method="exact", device=options.search_device)
    k = graph.indices.shape[1]
    weight, bounds = np.full(n * k, 1 / k, np.float32), np.arange(0, n * k + 1, k)
    rng = np.random.default_rng(options.seed)
    return ScbiotProblem(
        landmarks=landmarks,
        label=label,
        edges=build_edges(graph),
        smoother=csr_array((weight, graph.indices.ravel(), bounds), shape=(n, n)),
        spacing=graph.distances[:, :_LOCAL_NEIGHBORS].mean(axis=1, dtype=np.float32),
        free=~np.isin(landmarks.group, fixed),
        free_groups=tuple(landmarks.of(b) for b in range(landmarks.n_groups) if b not in fixed),
        scored_rows=np.sort(rng.choice(n, min(n, _SCORED_LANDMARKS), replace=False)),
        hyperparameters=hyperparameters,
        options=options,
    )


@dataclass(frozen=True, eq=False)
class _MovingCenters:
    """k-means centers that follow the landmarks: of each free group, of the reference, and of all landmarks."""

    of_groups: tuple[Floats, ...] = ()
    reference: Floats | None = None
    sharpening: Floats | None = None


@dataclass(frozen=True, eq=False)
class Iterate:
    """Landmarks after an iteration, and their score.

    - `number`: Number of the iteration; 0 is the identity.
    - `x`: (L, d) landmarks.
    - `mass`: Transported mass of Eq. 3, mean over the groups.
    - `converged`: Whether the transport converged.
    - `overlap`: Fraction of neighbors kept, Eq. 18.
    - `objective`: J, Eq. 20.
    """

    number: int
    x: Floats
    mass: float
    converged: bool
    overlap: float
    objective: float


def run_iterations(problem: ScbiotProblem, progress: Callable[[str], None]) -> tuple[Iterate, History]:
    """Move the landmarks until J no longer increases; return the iterate with the largest J, and the history.

    The identity is a candidate. Rows of the history are lambda / epsilon, the mean move so far, and its change.
    """
    landmarks, max_iter = problem.landmarks, problem.options.max_iter
    x, centers = landmarks.position, _MovingCenters()
    identity = Iterate(0, x, 1.0, True, 1.0, 0.0)
    best = score_iterate(problem, identity, anneal_settings(problem.hyperparameters, 0.0), 0.0)
    history: list[tuple[float, float, float]] = []
    best_objective, best_mass, best_overlap, n_stale = -math.inf, 0.0, 0.0, 0
    for number in range(1, max_iter + 1):
        progress("transport")
        settings = anneal_settings(problem.hyperparameters, (number - 1) / max(1, max_iter - 1))
        moved, centers, mass, converged = _run_iteration(problem, x, centers, settings)
        total_move = weighted_rms(moved - landmarks.position, landmarks.mass)
        history.append((REG_M / REG, total_move, weighted_rms(moved - x, landmarks.mass)))
        x = moved
        current = score_iterate(problem, Iterate(number, x, mass, converged, 1.0, 0.0), settings, best_overlap)
        if number == 1:
            # the identity has no transport of its own
            best = replace(best, mass=mass, converged=converged)
        if current.objective > best.objective + _GAIN:
            best = current
        best_overlap = max(best_overlap, current.overlap)
        # While the groups are far from each other nothing mixes, but the transported mass increases.
        is_approaching = best.number == 0 and current.mass > best_mass + _MASS_GAIN
        is_better = current.objective > best_objective + _GAIN or is_approaching
        n_stale = 0 if is_better else n_stale + 1
        best_objective, best_mass = max(best_objective, current.objective), max(best_mass, current.mass)
        if n_stale == _PATIENCE:
            break
    return best, tuple(history)


def score_iterate(problem: ScbiotProblem, iterate: Iterate, settings: ScbiotSettings, best_overlap: float) -> Iterate:
    """Return the iterate with its overlap and J (Eqs 17-21), always on the same landmarks."""
    rows, landmarks = problem.scored_rows, problem.landmarks
    before, after, group = landmarks.position[rows], iterate.x[rows], landmarks.group[rows]
    scores = diagnose(before, after, group, landmarks.n_groups, ranks=False)
    objective = scores.objective(settings.floor, best_overlap, settings.weights)
    return replace(iterate, overlap=scores.overlap, objective=objective)


def _run_iteration(
    problem: ScbiotProblem, x: Floats, centers: _MovingCenters, settings: ScbiotSettings
) -> tuple[Floats, _MovingCenters, float, bool]:
    """Run one iteration, Eqs 1-16; returns landmarks, centers, transported mass, and whether it converged."""
    landmarks, hyperparameters = problem.landmarks, problem.hyperparameters
    near = knn(x, min(_LOCAL_NEIGHBORS, len(x) - 1), method="exact", device=problem.options.search_device)
    spacing: Floats = near.distances.mean(axis=1, dtype=np.float32)
    beta, sparsity = compute_bridge_scores(landmarks.group[near.indices], spacing, landmarks.n_groups)
    weight = compute_density_weights(spacing) * landmarks.mass
    shift, centers, mass, converged = _transport_landmarks(problem, x, weight, beta, centers, settings)
    if hyperparameters.sharpen > 0:
        sharpening, _ = _update_centers(
            x, landmarks.mass, centers.sharpening, _SHARPENING_CENTERS, problem.options.seed
        )
        centers = replace(centers, sharpening=sharpening)
        step = 2 * hyperparameters.sharpen * _SHARPENING_STEP
        shift += step * compute_sharpening_shift(x, sharpening, _PULL, _PUSH)
    if problem.label is not None and hyperparameters.supervision > 0:
        pull, push = 2 * hyperparameters.supervision * _LABEL_PULL, 2 * hyperparameters.supervision * _LABEL_PUSH
        shift += compute_label_shift(x, problem.label, landmarks.mass, beta, pull, push)
    # Eq. 13; the shift of a rare landmark, in a sparse region, is not averaged with those of other types
    is_smoothed = sparsity <= np.quantile(sparsity, _SMOOTHED_QUANTILE)
    blend = np.float32(settings.smooth) * is_smoothed[:, None]
    shift = (1 - blend) * shift + blend * (problem.smoother @ shift)
    move = _limit_moves(problem, x, cap_moves(settings.step * shift, settings.cap * problem.spacing), beta, settings)
    return x + move, centers, mass, converged


def _transport_landmarks(
    problem: ScbiotProblem, x: Floats, weight: Floats, beta: Floats, centers: _MovingCenters, settings: ScbiotSettings
) -> tuple[Floats, _MovingCenters, float, bool]:
    """Shift every landmark by the transport of the prototypes of its group, Eqs 1-7; also returns the prototypes."""
    options, previous = problem.options, centers.of_groups or (None,) * len(problem.free_groups)
    clusterings = [
        _update_centers(
            x[rows], weight[rows], old, _count_centers(problem, rows.stop - rows.start, _BATCH_CENTERS, 8), options.seed
        )
        for rows, old in zip(problem.free_groups, previous, strict=True)
    ]
    of_groups = tuple(positions for positions, _ in clusterings)
    prototypes = np.concatenate(of_groups)
    # The reference are the groups that stay in place or, if all move, the prototypes of all groups.
    fixed = ~problem.free
    has_fixed = bool(fixed.any())
    points, mass = (x[fixed], weight[fixed]) if has_fixed else (prototypes, np.ones(len(prototypes), np.float32))
    number = _count_centers(problem, len(points), _REFERENCE_CENTERS, 16 if has_fixed else 32)
    reference, _ = _update_centers(points, mass, centers.reference, number, options.seed)
    image, transported_mass, converged = transport_to_barycenters(
        of_groups,
        reference,
        settings.quantile,
        max_iter=200 if options.approximate else 1000,
        tol=1e-4 if options.approximate else 1e-5,
        device=options.device,
    )
    delta = np.concatenate(image) - prototypes
    delta *= compute_damping(delta)[:, None]
    shift, begin = np.zeros_like(x), 0
    for rows, (positions, labels) in zip(problem.free_groups, clusterings, strict=True):
        shift[rows] = delta[begin : begin + len(positions)][labels]
        begin += len(positions)
    shift *= 1 - _BRIDGE_DAMPING * beta[:, None]
    return shift, _MovingCenters(of_groups, reference, centers.sharpening), transported_mass, converged


def _count_centers(problem: ScbiotProblem, n: int, most: int, least: float) -> int:
    """Return the number of prototypes of n points: the bound of the paper, and that of its code for small groups."""
    return round(2 * problem.hyperparameters.prototypes * min(most, max(least, 2 * math.sqrt(n))))


def _update_centers(
    x: Floats, weight: Floats, centers: Floats | None, number: int, seed: int
) -> tuple[Floats, Indices]:
    """Weighted k-means (Eq. 1): a fit in the first iteration, then one Lloyd step from the previous centers."""
    if centers is None:
        number = max(1, min(number, len(x)))
        clusters = kmeans(x, number, weights=weight, n_iter=10, random_state=seed, n_threads=1)
        return clusters.centers, clusters.labels
    label: Indices = (0.5 * np.square(centers).sum(axis=1) - x @ centers.T).argmin(axis=1)
    mass = np.bincount(label, weight, minlength=len(centers))
    membership = csr_array((weight, label, np.arange(len(x) + 1)), shape=(len(x), len(centers)))
    total = membership.T @ x
    occupied = mass > 0
    updated = centers.copy()
    updated[occupied] = total[occupied] / mass[occupied, None]
    return updated, label


def _limit_moves(problem: ScbiotProblem, x: Floats, move: Floats, beta: Floats, settings: ScbiotSettings) -> Floats:
    """Apply PostScale and the guard to the capped move, Eqs 15-16.

    The guard comes last, so that every iterate is within the limits. If groups stay in place, they define the
    coordinates, which PostScale would change.
    """
    landmarks = problem.landmarks
    if problem.free.all():
        move = postscale(x + move, landmarks.mass, *compute_moments(landmarks.position, landmarks.mass)) - x
    move[~problem.free] = 0
    low, high = (
        interpolate_limits(bulk, bridge, beta) for bulk, bridge in zip(settings.bulk, settings.bridge, strict=True)
    )
    return guard_edges(x, move, problem.edges, low, high, problem.free)
