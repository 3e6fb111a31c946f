"""The algorithm of the scBIOT paper (Eqs 1-22) with corrected mathematics: cells and groups in, fitted state out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport._parallel import parallel_map
from muport.integration._fitted_state import IntegrationState, Reference
from muport.integration.prototypes._prototypes import (
    Prototypes,
    cluster_cells,
    fit_prototypes,
    join_clusterings,
    soft_assign,
)
from muport.integration.scbiot._iterations import Iterate, build_problem, run_iterations, score_iterate
from muport.integration.scbiot._schedule import anneal_settings
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import fit_coupling, initialize_coupling
from muport.integration.shared_centers._diagnostics import DIAGNOSED_CELLS, compute_metrics
from muport.integration.shared_centers._displacement import (
    compute_anchors,
    compute_residual_covariances,
    summarize_centers,
)
from muport.integration.shared_centers._fit import IntegrationFit
from muport.integration.shared_centers._group_maps import apply_maps, build_group_maps
from muport.integration.shared_centers._label_penalty import average_over_prototypes
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift
from muport.integration.shared_centers._sharpening import evenly_spaced_rows
from muport.integration.shared_centers._transport import anneal_coupling_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from muport.integration._fitted_state import GroupMap
    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.scbiot._iterations import ScbiotProblem
    from muport.integration.scbiot._proposed_moves import Floats, Indices
    from muport.integration.shared_centers._transport import History

__all__ = ["build_landmarks", "count_landmarks", "fit_scbiot"]

_PER_GROUP = 2_048  # largest number of landmarks of a group
_TOTAL = 8_192  # largest number of landmarks of all groups, among which every iteration searches neighbors
_MIN_GAIN = 1e-3  # of J, from which the MNN refinement is kept


def fit_scbiot(
    cells: StandardizedCells,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit the algorithm ``"scbiot"``: repeated moves toward barycenters of the transport; J selects the best iterate.

    It follows the scBIOT paper except where its formulas or their code fail: the transport is solved in the log domain,
    high costs are clipped and not forbidden, the guard holds after PostScale, the identity is a candidate, and all
    candidates are scored on the same landmarks. The landmarks of a group are its cells, or k-means centers of a large
    group. A cell moves by the mean displacement of the nearest landmarks.
    """
    progress("landmarks")
    landmarks, label = build_landmarks(cells, options.seed)
    best = Iterate(0, landmarks.position, 1.0, True, 1.0, 0.0)
    history: History = ()
    n_free_groups = len(set(range(landmarks.n_groups)).difference(options.fixed_groups))
    if n_free_groups and landmarks.n_groups > 1 and hyperparameters.strength > 0:
        best, history = _fit_landmarks(build_problem(landmarks, label, hyperparameters, options), progress)
    n, d = landmarks.position.shape
    no_agreement, no_shape = np.zeros(n, np.float32), np.zeros((landmarks.n_groups, d, d), np.float32)
    shift = landmarks.position - best.x
    maps = build_group_maps(landmarks, shift, landmarks.position, no_agreement, no_shape)
    progress("centers")
    state = IntegrationState(
        center=cells.center,
        scale=cells.scale,
        groups=cells.group_names,
        map_of_group=tuple(range(len(maps))),
        maps=maps,
        sharpening_centers=np.empty((0, d), np.float32),
        sharpening=0.0,
        reference=_fit_reference(cells, maps, hyperparameters, options),
        batch_effect=measure_batch_effect(cells.x, cells.group, len(cells.group_names), options.seed),
    )
    progress("diagnostics")
    metrics = compute_metrics(
        state,
        cells,
        options,
        iteration=best.number,
        transported_mass=best.mass,
        converged=best.converged,
        objective=best.objective,
    )
    return IntegrationFit(state, metrics, history)


def count_landmarks(size: Indices) -> Indices:
    """(B,) numbers of landmarks of groups of some sizes: all cells of small groups, equal numbers of large groups."""
    candidates = np.arange(1, _PER_GROUP + 1)
    total = np.minimum(size[:, None], candidates).sum(axis=0)
    largest = candidates[max(0, int(np.searchsorted(total, _TOTAL, side="right")) - 1)]
    number: Indices = np.minimum(size, largest)
    return number


def build_landmarks(cells: StandardizedCells, seed: int) -> tuple[Prototypes, Indices | None]:
    """Build landmarks of every group with their numbers of cells, and find (L,) their most frequent known labels."""
    number = count_landmarks(np.diff(cells.start))

    def cluster_group(group: int) -> tuple[Floats, Indices]:
        of_group = cells.x[cells.start[group] : cells.start[group + 1]]
        if len(of_group) <= number[group]:
            return of_group, np.arange(len(of_group))
        return cluster_cells(of_group, int(number[group]), seed)

    landmarks, nearest = join_clusterings(parallel_map(cluster_group, range(len(number)), len(cells.x)))
    if cells.label is None:
        return landmarks, None
    # The row of an unlabeled cell, whose code is -1, is 0: it has no vote.
    types = (cells.label[:, None] == np.arange(cells.label.max(initial=0) + 1)).astype(np.float32)
    votes = average_over_prototypes(types, nearest, len(landmarks.mass))
    return landmarks, np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def _fit_landmarks(problem: ScbiotProblem, progress: Callable[[str], None]) -> tuple[Iterate, History]:
    """Return the best iterate, with the MNN refinement if this increases J, and the history."""
    best, history = run_iterations(problem, progress)
    if problem.hyperparameters.projector == 0:
        return best, history
    progress("projector")
    last = anneal_settings(problem.hyperparameters, 1.0)
    # Both are scored with the last settings: those of the iteration that gave `best` would be unequal.
    refined = score_iterate(problem, replace(best, x=_refine_landmarks(problem, best.x)), last, 0.0)
    unrefined = score_iterate(problem, best, last, 0.0)
    return (refined if refined.objective > unrefined.objective + _MIN_GAIN else best), history


def _refine_landmarks(problem: ScbiotProblem, x: Floats) -> Floats:
    """Move the landmarks by a fraction of the shift between mutual nearest prototypes of different groups."""
    landmarks, hyperparameters, options = problem.landmarks, problem.hyperparameters, problem.options
    prototypes, nearest = fit_prototypes(landmarks.position, landmarks.start, hyperparameters.resolution, options.seed)
    image = np.zeros_like(prototypes.position)
    np.add.at(image, nearest, x)
    image /= prototypes.mass[:, None]
    shift = estimate_mnn_shift(prototypes, image)
    refined = x.copy()
    for b in range(landmarks.n_groups):
        rows, of_group = landmarks.of(b), prototypes.of(b)
        if b not in options.fixed_groups:
            near, weight = soft_assign(
                landmarks.position[rows], prototypes.position[of_group], device=options.search_device
            )
            smoothed = np.einsum("lq,lqd->ld", weight, shift[of_group][near])
            refined[rows] += hyperparameters.projector * hyperparameters.step * smoothed
    return refined


def _fit_reference(
    cells: StandardizedCells, maps: tuple[GroupMap, ...], hyperparameters: Hyperparameters, options: FitOptions
) -> Reference:
    """Fit centers to the integrated cells. New groups are transported onto them as in the default algorithm."""
    sampled = [
        np.linspace(begin, end - 1, min(_PER_GROUP, end - begin)).astype(np.int64)
        for begin, end in zip(cells.start[:-1], cells.start[1:], strict=True)
    ]
    x = apply_maps(maps, cells, np.concatenate(sampled), options.search_device)
    start = np.concatenate([[0], np.cumsum([len(rows) for rows in sampled])])
    prototypes, nearest = fit_prototypes(x, start, hyperparameters.resolution, options.seed)
    coupling = initialize_coupling(prototypes, len(cells.x), hyperparameters.resolution, options.seed)
    # The groups are integrated already, so the prototypes stay in place, and only the centers are iterated.
    for iteration in range(options.max_iter):
        settings = anneal_coupling_settings(iteration, hyperparameters, options)
        coupling = fit_coupling(prototypes.position, prototypes, coupling, settings)
    centers = summarize_centers(prototypes, coupling, options.fixed_groups)
    anchor, balance = compute_anchors(prototypes, coupling, centers)
    covariance, _ = compute_residual_covariances(x, start, nearest, anchor, balance)
    return Reference(
        centers=coupling.centers,
        weight=coupling.weight,
        target=centers.target,
        mean_proportions=centers.mean_proportions,
        covariance=covariance[list(options.fixed_groups) or slice(None)].mean(axis=0),
        mapped_prototypes=prototypes.position,
        landmarks=x[evenly_spaced_rows(len(x), DIAGNOSED_CELLS)],
    )
