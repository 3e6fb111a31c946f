"""New groups: transported onto the frozen centres of a fitted state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import GroupMap, apply_map
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import Coupling, fit_coupling
from muport.integration.shared_centers._displacement import (
    CenterSummary,
    compute_anchors,
    compute_bures_maps,
    compute_residual_covariances,
    estimate_translation,
    estimate_trust,
    shrink_covariances,
    summarize_centers,
)
from muport.integration.shared_centers._fit import Solved, group_maps, rms, theta_at
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState, Reference
    from muport.integration._hyperparameters import Hyperparameters
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._fit import FitOptions

__all__ = ["fit_new_groups"]


def fit_new_groups(
    cells: StandardizedCells, state: IntegrationState, hyperparameters: Hyperparameters, options: FitOptions
) -> tuple[GroupMap, ...]:
    """Maps of groups that the state does not know.

    Each new group is transported on its own, so that its map does not depend on what else is in the query.

    Parameters
    ----------
    cells
        Cells of the new groups only, standardised as the state is.
    state
        Fitted state; it stays as it is.
    hyperparameters, options
        Those of the fit.

    Returns
    -------
    One map per group, in the order of ``cells.names``.
    """
    bounds = zip(cells.start[:-1], cells.start[1:], cells.names, strict=True)
    alone = [
        replace(cells, x=cells.x[low:high], start=np.array([0, high - low]), names=(name,), label=None)
        for low, high, name in bounds
    ]
    return tuple(_new_map(one, state.reference, hyperparameters, options) for one in alone)


def _new_map(
    cells: StandardizedCells, reference: Reference, hyperparameters: Hyperparameters, options: FitOptions
) -> GroupMap:
    prototypes, nearest = fit_prototypes(cells.x, cells.start, hyperparameters.resolution, options.seed)
    solved = _solve(prototypes, reference, hyperparameters, options)
    step = hyperparameters.step * hyperparameters.caution(_evidence(cells, reference, options.seed))
    anchor, weight = compute_anchors(prototypes, solved.coupling, solved.clusters, new=True)
    covariance, total = compute_residual_covariances(cells.x, cells.start, nearest, anchor, weight)
    shape = compute_bures_maps(shrink_covariances(covariance, total, reference.covariance), reference.covariance)
    shape *= np.float32(hyperparameters.shape * step * reference.shape_kept)
    trust = estimate_trust(prototypes, solved.coupling, solved.clusters, hyperparameters.agreement, new=True)
    (found,) = group_maps(prototypes, step * solved.shift, anchor, trust, shape)
    # the fitted cells stay, so the new ones go the way of both
    share = 2 * hyperparameters.meeting * step * reference.refinement_kept
    if share == 0:
        return found
    image = apply_map(found.position, found)
    residual = share * trust[:, None] * estimate_mnn_shift(prototypes, image, fixed=reference.image)
    return replace(found, shift=(found.shift - residual).astype(np.float32))


def _solve(
    prototypes: Prototypes, reference: Reference, hyperparameters: Hyperparameters, options: FitOptions
) -> Solved:
    n_groups, (n_centers, d) = prototypes.n_groups, reference.target.shape
    empty = np.zeros((n_groups, n_centers), np.float32)
    frozen = CenterSummary(
        empty, np.zeros((n_groups, n_centers, d), np.float32), reference.target, reference.mean_proportions
    )
    coupling = Coupling(reference.centers, np.empty((0, 0), np.float32), reference.weight, empty, True)
    clusters, shift = frozen, np.zeros_like(prototypes.position)
    for iteration in range(options.max_iter):
        theta = theta_at(iteration, hyperparameters, options)
        coupling = fit_coupling(
            prototypes.position - shift, prototypes, coupling, theta, frozen=True, max_iter=options.sweeps,
            device=options.device,
        )  # fmt: skip
        clusters = summarize_centers(prototypes, coupling, frozen=frozen)
        new = estimate_translation(prototypes, coupling, clusters, hyperparameters.agreement, new=True)
        change, shift = rms(new - shift, prototypes.mass), new
        if theta == 0 and change < options.tol:
            break
    return Solved(coupling, clusters, shift, ())


def _evidence(cells: StandardizedCells, reference: Reference, seed: int) -> float:
    """Evidence that a new group lies apart from the landmarks of the fitted cells."""
    both = np.concatenate([reference.landmarks, cells.x])
    code: NDArray[np.int64] = np.repeat([0, 1], [len(reference.landmarks), len(cells.x)])
    return measure_batch_effect(both, code, 2, seed)
