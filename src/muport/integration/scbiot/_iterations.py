"""The iterations of the scBIOT paper: one move of the landmarks after the other, and the selection by J."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport.integration.scbiot._move_limits import capped, guarded, make_edges, moments, postscale
from muport.integration.scbiot._proposed_moves import (
    REG,
    REG_M,
    bridge_score,
    damping,
    density_weights,
    interpolated,
    label_shift,
    sharpening,
    transport,
)
from muport.integration.scbiot._schedule import anneal_settings
from muport.integration.shared_centers._diagnostics import diagnose
from muport.integration.shared_centers._fit import rms
from muport.neighbors import kmeans, knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import Hyperparameters
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.scbiot._move_limits import Edges
    from muport.integration.scbiot._proposed_moves import Floats, Indices
    from muport.integration.scbiot._schedule import ScbiotSettings
    from muport.integration.shared_centers._fit import FitOptions

__all__ = ["Iterate", "Problem", "iterate", "make_problem", "scored"]

_LOCAL, _GRAPH = 15, 20  # neighbours of Eqs 1 and 8, and of the graph of Eqs 13 and 15
_K_BATCH, _K_REFERENCE, _K_SHARP = 512, 1024, 28
_SHARPEN, _PULL, _PUSH = 0.22, 0.78, 0.34
_LABEL_PULL, _LABEL_PUSH = 0.60, 0.18
_BRIDGE = 0.35  # damping of Eq. 6
_RARE = 0.85  # quantile of the sparsity beyond which shifts are not smoothed
_EVALUATED = 2_500  # landmarks on which J is computed
_PATIENCE = 3
_GAIN, _NEARER = 1e-3, 5e-3  # of J and of the transported mass, that count as progress

type History = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """What stays the same in all iterations.

    Attributes
    ----------
    marks
        Landmarks of all groups: their input positions and masses.
    label
        (L,) labels, -1 where unknown; None without labels.
    edges
        Neighbour graph of the input.
    smoother
        (L, L) mean over the neighbours in the input.
    spacing
        (L,) mean distance to the neighbours in the input.
    free
        (L,) landmarks that may move: not those of a reference.
    moving
        Rows of each other group.
    rows
        Landmarks on which J is computed.
    hyperparameters, options
        How to fit.
    """

    marks: Prototypes
    label: Indices | None
    edges: Edges
    smoother: csr_array
    spacing: Floats
    free: NDArray[np.bool_]
    moving: tuple[slice, ...]
    rows: Indices
    hyperparameters: Hyperparameters
    options: FitOptions


def make_problem(
    marks: Prototypes, label: Indices | None, hyperparameters: Hyperparameters, options: FitOptions
) -> Problem:
    """Neighbour graph of the input, and the landmarks that are evaluated, the same in every iteration."""
    n = len(marks.position)
    graph = knn(marks.position, min(_GRAPH, n - 1), method="exact", device=options.search_device)
    k = graph.indices.shape[1]
    weight, bounds = np.full(n * k, 1 / k, np.float32), np.arange(0, n * k + 1, k)
    return Problem(
        marks, label, make_edges(graph),
        smoother=csr_array((weight, graph.indices.ravel(), bounds), shape=(n, n)),
        spacing=graph.distances[:, :_LOCAL].mean(axis=1, dtype=np.float32),
        free=~np.isin(marks.group, options.fixed_groups),
        moving=tuple(marks.of(b) for b in range(marks.n_groups) if b not in options.fixed_groups),
        rows=np.sort(np.random.default_rng(options.seed).choice(n, min(n, _EVALUATED), replace=False)),
        hyperparameters=hyperparameters, options=options,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Centers:
    """k-means centres that follow the landmarks: of each moving group, of the reference, and of all landmarks."""

    batch: tuple[Floats, ...] = ()
    reference: Floats | None = None
    sharp: Floats | None = None


@dataclass(frozen=True, eq=False)
class Iterate:
    """Landmarks after an iteration and their score.

    Attributes
    ----------
    number
        Iterations made; 0 is the identity.
    x
        (L, d) landmarks.
    mass
        Transported mass of Eq. 3, mean over the groups.
    converged
        Whether the transport did.
    overlap
        Neighbours kept, Eq. 18.
    objective
        J, Eq. 20.
    """

    number: int
    x: Floats
    mass: float
    converged: bool
    overlap: float
    objective: float


def iterate(problem: Problem, progress: Callable[[str], None]) -> tuple[Iterate, History]:
    """Move the landmarks until J stops rising; return the best iterate, the identity among them, and the history.

    Rows of the history are lambda / epsilon, the mean move so far, and its change.
    """
    marks, most = problem.marks, problem.options.max_iter
    x, centers = marks.position, _Centers()
    best = scored(problem, Iterate(0, x, 1.0, True, 1.0, 0.0), anneal_settings(problem.hyperparameters, 0.0), 0.0)
    history: list[tuple[float, float, float]] = []
    leading, nearest, overlap, stale = -math.inf, 0.0, 0.0, 0
    for number in range(1, most + 1):
        progress("transport")
        settings = anneal_settings(problem.hyperparameters, (number - 1) / max(1, most - 1))
        new, centers, mass, converged = _moved(problem, x, centers, settings)
        history.append((REG_M / REG, rms(new - marks.position, marks.mass), rms(new - x, marks.mass)))
        x = new
        now = scored(problem, Iterate(number, x, mass, converged, 1.0, 0.0), settings, overlap)
        if number == 1:
            best = replace(best, mass=mass, converged=converged)
        if now.objective > best.objective + _GAIN:
            best = now
        overlap = max(overlap, now.overlap)
        # While groups are still apart nothing mixes, but the mass that is worth its transport grows.
        nearing = best.number == 0 and now.mass > nearest + _NEARER
        better = now.objective > leading + _GAIN or nearing
        stale = 0 if better else stale + 1
        leading, nearest = max(leading, now.objective), max(nearest, now.mass)
        if stale == _PATIENCE:
            break
    return best, tuple(history)


def scored(problem: Problem, one: Iterate, settings: ScbiotSettings, best_overlap: float) -> Iterate:
    """The iterate with its overlap and J (Eqs 17-21), always on the same landmarks."""
    rows, marks = problem.rows, problem.marks
    found = diagnose(marks.position[rows], one.x[rows], marks.group[rows], marks.n_groups, ranks=False)
    objective = found.objective(settings.floor, best_overlap, settings.weights)
    return replace(one, overlap=found.overlap, objective=objective)


def _moved(
    problem: Problem, x: Floats, centers: _Centers, settings: ScbiotSettings
) -> tuple[Floats, _Centers, float, bool]:
    """One iteration, Eqs 1-16."""
    marks, hyperparameters = problem.marks, problem.hyperparameters
    near = knn(x, min(_LOCAL, len(x) - 1), method="exact", device=problem.options.search_device)
    spacing: Floats = near.distances.mean(axis=1, dtype=np.float32)
    beta, sparsity = bridge_score(marks.group[near.indices], spacing, marks.n_groups)
    weight = density_weights(spacing) * marks.mass
    shift, centers, mass, converged = _transported(problem, x, weight, beta, centers, settings)
    if hyperparameters.sharpen > 0:
        sharp, _ = _follow(x, marks.mass, centers.sharp, _K_SHARP, problem.options.seed)
        centers = replace(centers, sharp=sharp)
        shift += 2 * hyperparameters.sharpen * _SHARPEN * sharpening(x, sharp, _PULL, _PUSH)
    if problem.label is not None and hyperparameters.supervision > 0:
        pull, push = 2 * hyperparameters.supervision * _LABEL_PULL, 2 * hyperparameters.supervision * _LABEL_PUSH
        shift += label_shift(x, problem.label, marks.mass, beta, pull, push)
    common = sparsity <= np.quantile(sparsity, _RARE)
    blend = np.float32(settings.smooth) * common[:, None]
    shift = (1 - blend) * shift + blend * (problem.smoother @ shift)
    move = _kept(problem, x, capped(settings.step * shift, settings.cap * problem.spacing), beta, settings)
    return x + move, centers, mass, converged


def _transported(
    problem: Problem, x: Floats, weight: Floats, beta: Floats, centers: _Centers, settings: ScbiotSettings
) -> tuple[Floats, _Centers, float, bool]:
    """Shift of every landmark by the transport of its group's prototypes, Eqs 1-7, and those prototypes."""
    options = problem.options
    followed = [
        _follow(x[rows], weight[rows], old, _number(problem, rows.stop - rows.start, _K_BATCH, 8), options.seed)
        for rows, old in zip(problem.moving, centers.batch or (None,) * len(problem.moving), strict=True)
    ]
    batch = tuple(own for own, _ in followed)
    fixed = ~problem.free
    pool, pooled = (x[fixed], weight[fixed]) if fixed.any() else _stacked(batch)
    number = _number(problem, len(pool), _K_REFERENCE, 16 if fixed.any() else 32)
    reference, _ = _follow(pool, pooled, centers.reference, number, options.seed)
    image, mass, converged = transport(
        batch, reference, settings.quantile, max_iter=200 if options.approximate else 1000,
        tol=1e-4 if options.approximate else 1e-5, device=options.device,
    )  # fmt: skip
    delta = np.concatenate(image) - np.concatenate(batch)
    delta *= damping(delta)[:, None]
    shift, begin = np.zeros_like(x), 0
    for rows, (own, member) in zip(problem.moving, followed, strict=True):
        shift[rows] = delta[begin : begin + len(own)][member]
        begin += len(own)
    shift *= 1 - _BRIDGE * beta[:, None]
    return shift, _Centers(batch, reference, centers.sharp), mass, converged


def _number(problem: Problem, n: int, most: int, least: float) -> int:
    """Number of prototypes of n points: the paper's bound, and that of its code on small groups."""
    return round(2 * problem.hyperparameters.prototypes * min(most, max(least, 2 * math.sqrt(n))))


def _stacked(batch: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    every = np.concatenate(batch)
    return every, np.ones(len(every), np.float32)


def _follow(x: Floats, weight: Floats, old: Floats | None, number: int, seed: int) -> tuple[Floats, Indices]:
    """Weighted k-means (Eq. 1), at first from scratch, then one Lloyd step from where the centres were."""
    if old is None:
        found = kmeans(x, max(1, min(number, len(x))), weights=weight, n_iter=10, random_state=seed, n_threads=1)
        return found.centers, found.labels
    label: Indices = (0.5 * np.square(old).sum(axis=1) - x @ old.T).argmin(axis=1)
    held = np.bincount(label, weight, minlength=len(old))
    member = csr_array((weight, label, np.arange(len(x) + 1)), shape=(len(x), len(old)))
    total = member.T @ x
    kept = held > 0
    centers = old.copy()
    centers[kept] = total[kept] / held[kept, None]
    return centers, label


def _kept(problem: Problem, x: Floats, move: Floats, beta: Floats, settings: ScbiotSettings) -> Floats:
    """The capped move after PostScale and the guard, Eqs 15-16.

    The guard comes last, so that every iterate keeps to the limits.  A reference that stays in place fixes the frame,
    which PostScale would move.
    """
    marks = problem.marks
    if problem.free.all():
        move = postscale(x + move, marks.mass, *moments(marks.position, marks.mass)) - x
    move[~problem.free] = 0
    low, high = (interpolated(bulk, bridge, beta) for bulk, bridge in zip(settings.bulk, settings.bridge, strict=True))
    return guarded(x, move, problem.edges, low, high, problem.free)
