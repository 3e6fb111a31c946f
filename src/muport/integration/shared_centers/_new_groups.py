"""Maps of new groups, which are transported onto the frozen centers of a fitted state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import GroupMap, apply_map
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import Coupling
from muport.integration.shared_centers._displacement import (
    CenterSummary,
    compute_anchors,
    compute_residual_covariances,
    compute_shape_changes,
    estimate_agreement,
    shrink_covariances,
)
from muport.integration.shared_centers._group_maps import apply_fractions, build_group_maps
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift
from muport.integration.shared_centers._transport import TransportProblem, fit_transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState, Reference
    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._transport import Transport

__all__ = ["fit_new_groups"]


def fit_new_groups(
    cells: StandardizedCells, state: IntegrationState, hyperparameters: Hyperparameters, options: FitOptions
) -> tuple[GroupMap, ...]:
    """Fit the maps of groups that are not in the state.

    Each new group is transported on its own, so that its map does not depend on the other groups of the query.

    - `cells`: Cells of the new groups only, standardized as in the state.
    - `state`: Fitted state, which is not changed.

    Returns one map per group, in the order of ``cells.group_names``.
    """
    bounds = zip(cells.start[:-1], cells.start[1:], cells.group_names, strict=True)
    groups = [
        replace(cells, x=cells.x[low:high], start=np.array([0, high - low]), group_names=(name,), label=None)
        for low, high, name in bounds
    ]
    return tuple(_fit_new_group(group, state.reference, hyperparameters, options) for group in groups)


def _fit_new_group(
    cells: StandardizedCells, reference: Reference, hyperparameters: Hyperparameters, options: FitOptions
) -> GroupMap:
    prototypes, nearest = fit_prototypes(cells.x, cells.start, hyperparameters.resolution, options.seed)
    problem = TransportProblem(prototypes, cells.second_moment, hyperparameters, options)
    transport = _transport_onto_reference(problem, reference)
    coupling, centers = transport.coupling, transport.centers
    batch_effect = _measure_effect_against_landmarks(cells, reference, options.seed)
    fraction = hyperparameters.move_fraction(batch_effect)
    anchor, weight = compute_anchors(prototypes, coupling, centers)
    covariance, total = compute_residual_covariances(cells.x, cells.start, nearest, anchor, weight)
    shrunk = shrink_covariances(covariance, total, reference.covariance)
    change = compute_shape_changes(shrunk, reference.covariance, options.match_shapes)
    shape = np.float32(hyperparameters.shape_fraction * fraction * reference.shape_kept) * change
    agreement = estimate_agreement(prototypes, coupling, centers, hyperparameters.full_agreement)
    shift = apply_fractions(transport.translation, prototypes, hyperparameters, batch_effect)
    (group_map,) = build_group_maps(prototypes, shift, anchor, agreement, shape)
    # The fitted prototypes do not move, so the new ones move the whole distance: twice the fraction.
    mnn_fraction = 2 * hyperparameters.mnn_fraction * fraction * reference.refinement_kept
    if mnn_fraction == 0:
        return group_map
    mapped = apply_map(group_map.position, group_map)
    mnn_shift = estimate_mnn_shift(prototypes, mapped, fixed=reference.mapped_prototypes)
    return replace(
        group_map, shift=(group_map.shift - mnn_fraction * agreement[:, None] * mnn_shift).astype(np.float32)
    )


def _transport_onto_reference(problem: TransportProblem, reference: Reference) -> Transport:
    n_groups, (n_centers, d) = problem.prototypes.n_groups, reference.target.shape
    zeros = np.zeros((n_groups, n_centers), np.float32)
    means = np.zeros((n_groups, n_centers, d), np.float32)
    fitted = CenterSummary(zeros, means, reference.target, reference.mean_proportions, of_new_groups=True)
    initial = Coupling(reference.centers, np.empty((0, 0), np.float32), reference.weight, zeros, True)
    return fit_transport(replace(problem, fitted_centers=fitted), initial)


def _measure_effect_against_landmarks(cells: StandardizedCells, reference: Reference, seed: int) -> float:
    """Measure the batch effect between a new group and the landmarks of the fitted cells."""
    x = np.concatenate([reference.landmarks, cells.x])
    group: NDArray[np.int64] = np.repeat([0, 1], [len(reference.landmarks), len(cells.x)])
    return measure_batch_effect(x, group, 2, seed)
