"""The algorithm of the scBIOT paper (Eqs 1-22), its mathematics repaired: cells and groups in, fitted state out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import parallel_map
from muport.integration._fitted_state import IntegrationState, Reference, apply_map, transform_cells
from muport.integration.prototypes._prototypes import Prototypes, fit_prototypes, soft_assign
from muport.integration.scbiot._iterations import Iterate, iterate, make_problem, scored
from muport.integration.scbiot._schedule import anneal_settings
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import Coupling, fit_coupling, initialize_centers
from muport.integration.shared_centers._diagnostics import diagnose
from muport.integration.shared_centers._displacement import (
    compute_anchors,
    compute_residual_covariances,
    summarize_centers,
)
from muport.integration.shared_centers._fit import IntegrationFit, group_maps, theta_at
from muport.integration.shared_centers._label_penalty import average_over_prototypes
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Callable

    from muport.integration._fitted_state import GroupMap
    from muport.integration._hyperparameters import Hyperparameters
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.scbiot._iterations import History, Problem
    from muport.integration.scbiot._proposed_moves import Floats, Indices
    from muport.integration.shared_centers._fit import FitOptions

__all__ = ["fit_scbiot", "landmark_count", "make_landmarks"]

_PER_GROUP = 2_048  # landmarks of a group
_TOTAL = 8_192  # of all groups: every iteration searches neighbours among them
_POINTS = 64  # cells a landmark is fitted on
_CENTERS, _CELLS_PER_CENTER = 100, 30
_SAMPLE = 1_500  # cells of the diagnostics and of the landmarks
_MIN_GAIN = 1e-3


def fit_scbiot(
    cells: StandardizedCells,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit the algorithm ``"scbiot"``: repeated moves toward transport barycentres, the best iterate selected by J.

    It follows the scBIOT paper except where the formulas or their code fail: the transport is solved in the log domain,
    its cost is clipped and not forbidden, the guard holds after PostScale, the identity is a candidate, and all
    candidates are scored on the same landmarks.  The landmarks of a group are its cells, or k-means centres of a
    large group; a cell moves by the mean displacement of the nearest ones.

    Parameters
    ----------
    cells
        Standardised cells in canonical order.
    hyperparameters
        The user's hyperparameters.
    options
        How to fit.
    progress
        Called with the name of each stage, and once per outer iteration.
    """
    progress("landmarks")
    marks, label = make_landmarks(cells, options.seed)
    best = Iterate(0, marks.position, 1.0, True, 1.0, 0.0)
    history: History = ()
    if (
        len(set(range(marks.n_groups)).difference(options.fixed_groups))
        and marks.n_groups > 1
        and hyperparameters.strength > 0
    ):
        best, history = _solved(make_problem(marks, label, hyperparameters, options), progress)
    n, d = marks.position.shape
    shape = np.zeros((marks.n_groups, d, d), np.float32)
    maps = group_maps(marks, marks.position - best.x, marks.position, np.zeros(n, np.float32), shape)
    progress("centres")
    reference = _reference(cells, maps, hyperparameters, options)
    evidence = measure_batch_effect(cells.x, cells.group, len(cells.names), options.seed)
    nothing = np.empty((0, d), np.float32)
    state = IntegrationState(
        cells.center, cells.scale, cells.names, tuple(range(len(maps))), maps, nothing, 0.0, reference, evidence
    )
    progress("diagnostics")
    return IntegrationFit(state, _metrics(state, cells, best, options), history)


def landmark_count(size: Indices) -> Indices:
    """(B,) landmarks of groups of some sizes: all cells of small groups, and the same number of all large ones."""
    most = np.arange(1, _PER_GROUP + 1)
    total = np.minimum(size[:, None], most).sum(axis=0)
    largest = most[max(0, int(np.searchsorted(total, _TOTAL, side="right")) - 1)]
    number: Indices = np.minimum(size, largest)
    return number


def make_landmarks(cells: StandardizedCells, seed: int) -> tuple[Prototypes, Indices | None]:
    """Landmarks of every group with their numbers of cells, and (L,) the commonest known label of those."""
    number = landmark_count(np.diff(cells.start))

    def summary(group: int) -> tuple[Floats, Indices]:
        own = cells.x[cells.start[group] : cells.start[group + 1]]
        if len(own) <= number[group]:
            return own, np.arange(len(own))
        found = kmeans(
            own, int(number[group]), n_iter=10, random_state=seed, n_threads=1, max_points_per_center=_POINTS
        )
        return found.centers, found.labels

    found = parallel_map(summary, range(len(number)), len(cells.x))
    bounds = np.cumsum([0, *(len(position) for position, _ in found)], dtype=np.int64)
    nearest = np.concatenate([member + low for (_, member), low in zip(found, bounds[:-1], strict=True)])
    mass = np.bincount(nearest, minlength=bounds[-1]).astype(np.float32)
    marks = Prototypes(np.concatenate([position for position, _ in found]), mass, bounds)
    if cells.label is None:
        return marks, None
    # a cell without a label, -1, votes for none
    types = (cells.label[:, None] == np.arange(cells.label.max(initial=0) + 1)).astype(np.float32)
    votes = average_over_prototypes(types, nearest, len(mass))
    return marks, np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def _solved(problem: Problem, progress: Callable[[str], None]) -> tuple[Iterate, History]:
    """The best iterate, refined between mutual neighbours where that raises J."""
    best, history = iterate(problem, progress)
    if problem.hyperparameters.projector == 0:
        return best, history
    progress("projector")
    refined = replace(best, x=_refined(problem, best.x))
    last = anneal_settings(problem.hyperparameters, 1.0)
    now, then = (scored(problem, one, last, 0.0) for one in (refined, best))
    return (now if now.objective > then.objective + _MIN_GAIN else best), history


def _refined(problem: Problem, x: Floats) -> Floats:
    """Landmarks after a share of the residual shift of prototypes between mutual neighbours."""
    marks, hyperparameters, options = problem.marks, problem.hyperparameters, problem.options
    prototypes, nearest = fit_prototypes(marks.position, marks.start, hyperparameters.resolution, options.seed)
    image = np.zeros_like(prototypes.position)
    np.add.at(image, nearest, x)
    image /= prototypes.mass[:, None]
    residual = estimate_mnn_shift(prototypes, image)
    out = x.copy()
    for b in range(marks.n_groups):
        rows, own = marks.of(b), prototypes.of(b)
        if b not in options.fixed_groups:
            near, weight = soft_assign(marks.position[rows], prototypes.position[own], device=options.search_device)
            out[rows] += (
                hyperparameters.projector * hyperparameters.step * np.einsum("lq,lqd->ld", weight, residual[own][near])
            )
    return out


def _reference(
    cells: StandardizedCells, maps: tuple[GroupMap, ...], hyperparameters: Hyperparameters, options: FitOptions
) -> Reference:
    """Centres of the integrated cells, onto which new groups are transported as in the default algorithm."""
    picked = [
        np.linspace(begin, end - 1, min(_PER_GROUP, end - begin)).astype(np.int64)
        for begin, end in zip(cells.start[:-1], cells.start[1:], strict=True)
    ]
    x = np.concatenate(
        [apply_map(cells.x[rows], one, options.search_device) for rows, one in zip(picked, maps, strict=True)]
    )
    start = np.concatenate([[0], np.cumsum([len(rows) for rows in picked])])
    prototypes, nearest = fit_prototypes(x, start, hyperparameters.resolution, options.seed)
    number = round(min(_CENTERS, max(2.0, len(cells.x) / _CELLS_PER_CENTER)) * hyperparameters.resolution)
    centers = initialize_centers(prototypes, int(np.clip(number, 1, len(prototypes.mass))), options.seed)
    weight = np.full(len(centers), 1 / len(centers), np.float32)
    empty = np.zeros((len(cells.names), len(centers)), np.float32)
    coupling = Coupling(centers, np.empty((0, 0), np.float32), weight, empty, True)
    for iteration in range(options.max_iter):
        theta = theta_at(iteration, hyperparameters, options)
        coupling = fit_coupling(
            prototypes.position, prototypes, coupling, theta, max_iter=options.sweeps, device=options.device
        )
    clusters = summarize_centers(prototypes, coupling, options.fixed_groups)
    anchor, balance = compute_anchors(prototypes, coupling, clusters)
    covariance, _ = compute_residual_covariances(x, start, nearest, anchor, balance)
    shape = covariance[list(options.fixed_groups) or slice(None)].mean(axis=0)
    landmarks = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).astype(np.int64))]
    return Reference(
        coupling.centers,
        coupling.weight,
        clusters.target,
        clusters.mean_proportions,
        shape,
        prototypes.position,
        landmarks,
    )


def _metrics(state: IntegrationState, cells: StandardizedCells, best: Iterate, options: FitOptions) -> dict[str, float]:
    n = len(cells.x)
    rows = np.sort(np.random.default_rng(options.seed + 1).choice(n, min(n, _SAMPLE), replace=False))
    before, group = cells.x[rows], cells.group[rows]
    unscaled = replace(state, center=np.zeros_like(state.center), scale=1.0)
    after = transform_cells(before, group, unscaled, device=options.search_device)
    found = diagnose(before, after, group, len(cells.names))
    return {
        "mix": found.mix,
        "mix_input": found.mix_input,
        "overlap": found.overlap,
        "strain": found.strain,
        "trustworthiness": found.trustworthiness,
        "objective": best.objective,
        "evidence": state.batch_effect,
        "iteration": float(best.number),
        "transported_mass": best.mass,
        "move": float(np.linalg.norm(after - before, axis=1).mean()),
        "converged": float(best.converged),
    }
