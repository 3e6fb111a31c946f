"""New groups: transported onto the frozen centres of a fitted state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import GroupMap, move
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import batch_evidence
from muport.integration.shared_centers._coupling import Coupling, couple
from muport.integration.shared_centers._displacement import (
    Clusters,
    bures_map,
    clusters_of,
    group_covariances,
    hard_anchor,
    shrunk,
    translation,
    trust_of,
)
from muport.integration.shared_centers._fit import Solved, group_maps, rms, theta_at
from muport.integration.shared_centers._mnn_refinement import residual_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState, Reference
    from muport.integration._hyperparameters import Knobs
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import Cells
    from muport.integration.shared_centers._fit import Options

__all__ = ["new_maps"]


def new_maps(cells: Cells, state: IntegrationState, knobs: Knobs, options: Options) -> tuple[GroupMap, ...]:
    """Maps of groups that the state does not know.

    Each new group is transported on its own, so that its map does not depend on what else is in the query.

    Parameters
    ----------
    cells
        Cells of the new groups only, standardised as the state is.
    state
        Fitted state; it stays as it is.
    knobs, options
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
    return tuple(_new_map(one, state.reference, knobs, options) for one in alone)


def _new_map(cells: Cells, reference: Reference, knobs: Knobs, options: Options) -> GroupMap:
    prototypes, nearest = fit_prototypes(cells.x, cells.start, knobs.resolution, options.seed)
    solved = _solve(prototypes, reference, knobs, options)
    step = knobs.step * knobs.caution(_evidence(cells, reference, options.seed))
    anchor, weight = hard_anchor(prototypes, solved.coupling, solved.clusters, new=True)
    covariance, total = group_covariances(cells.x, cells.start, nearest, anchor, weight)
    shape = bures_map(shrunk(covariance, total, reference.covariance), reference.covariance)
    shape *= np.float32(knobs.shape * step * reference.shaped)
    trust = trust_of(prototypes, solved.coupling, solved.clusters, knobs.agreement, new=True)
    (found,) = group_maps(prototypes, step * solved.shift, anchor, trust, shape)
    # the fitted cells stay, so the new ones go the way of both
    share = 2 * knobs.meeting * step * reference.refined
    if share == 0:
        return found
    image = move(found.position, found)
    residual = share * trust[:, None] * residual_shift(prototypes, image, fixed=reference.image)
    return replace(found, shift=(found.shift - residual).astype(np.float32))


def _solve(prototypes: Prototypes, reference: Reference, knobs: Knobs, options: Options) -> Solved:
    n_groups, (n_centers, d) = prototypes.n_groups, reference.target.shape
    empty = np.zeros((n_groups, n_centers), np.float32)
    frozen = Clusters(empty, np.zeros((n_groups, n_centers, d), np.float32), reference.target, reference.usual)
    coupling = Coupling(reference.centers, np.empty((0, 0), np.float32), reference.weight, empty, True)
    clusters, shift = frozen, np.zeros_like(prototypes.position)
    for iteration in range(options.max_iter):
        theta = theta_at(iteration, knobs, options)
        coupling = couple(
            prototypes.position - shift, prototypes, coupling, theta, frozen=True, max_iter=options.sweeps,
            device=options.device,
        )  # fmt: skip
        clusters = clusters_of(prototypes, coupling, frozen=frozen)
        new = translation(prototypes, coupling, clusters, knobs.agreement, new=True)
        change, shift = rms(new - shift, prototypes.mass), new
        if theta == 0 and change < options.tol:
            break
    return Solved(coupling, clusters, shift, ())


def _evidence(cells: Cells, reference: Reference, seed: int) -> float:
    """Evidence that a new group lies apart from the landmarks of the fitted cells."""
    both = np.concatenate([reference.landmarks, cells.x])
    code: NDArray[np.int64] = np.repeat([0, 1], [len(reference.landmarks), len(cells.x)])
    return batch_evidence(both, code, 2, seed)
