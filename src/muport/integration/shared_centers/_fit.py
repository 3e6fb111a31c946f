"""The default algorithm, ``"shared"``: all steps in their order, from cells and groups to the fitted state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import IntegrationState, Reference, predict_type_probabilities
from muport.integration.labels._type_separation import fit_types
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import initialize_coupling
from muport.integration.shared_centers._diagnostics import score_fit
from muport.integration.shared_centers._group_maps import (
    apply_maps,
    fit_group_maps,
    keep_if_mixing_holds,
    map_prototypes,
)
from muport.integration.shared_centers._label_penalty import average_over_prototypes
from muport.integration.shared_centers._sharpening import add_sharpening, add_type_separation
from muport.integration.shared_centers._transport import TransportProblem, fit_transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._fitted_state import GroupMap, Types
    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._transport import History, Transport

__all__ = ["IntegrationFit", "fit_shared_centers"]


@dataclass(frozen=True, eq=False)
class IntegrationFit:
    """A fitted state, its scores, and its history: rows of (theta, displacement, change of the displacement)."""

    state: IntegrationState
    metrics: dict[str, float]
    history: History


def fit_shared_centers(
    cells: StandardizedCells,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit the default algorithm, ``"shared"``: transport of all groups onto shared centers."""
    # 1. Without evidence of a batch effect no cell moves: `step` scales every move.
    progress("evidence")
    batch_effect = measure_batch_effect(cells.x, cells.group, len(cells.names), options.seed)
    step = hyperparameters.step * hyperparameters.step_factor(batch_effect)
    # 2. Prototypes make the cost of the transport independent of the number of cells (Eq. 1).
    progress("prototypes")
    prototypes, nearest = fit_prototypes(cells.x, cells.start, hyperparameters.resolution, options.seed)
    # 3. Transport of the prototypes gives one map per group (Eqs 2-7 and 16).
    task = _Task(cells, TransportProblem(prototypes, hyperparameters, options), nearest, step, progress)
    fitted = _fit_maps(task)
    # 4. Labels, if known, are used in a second transport.
    if cells.label is not None and (cells.label >= 0).any() and hyperparameters.supervision * step > 0:
        progress("labels")
        fitted = _add_labels(task, fitted)
    # 5. Cells are pulled toward cluster centers (Eqs 10-12), and labeled types are separated.
    progress("centers")
    reference = replace(fitted.reference, image=map_prototypes(fitted.maps))
    state = IntegrationState(
        center=cells.center,
        scale=cells.scale,
        groups=cells.names,
        map_of_group=tuple(range(len(fitted.maps))),
        maps=fitted.maps,
        sharpening_centers=reference.landmarks,
        sharpening=hyperparameters.sharpening * step,
        reference=reference,
        batch_effect=batch_effect,
        types=fitted.types,
    )
    state = add_sharpening(state, cells, options)
    state = add_type_separation(state, cells, fitted.predictability, hyperparameters.supervision, step, options)
    # 6. Mixing and conservation of a sample are reported (Eqs 17-22).
    progress("diagnostics")
    return IntegrationFit(state, _score(state, cells, fitted.transport, options), fitted.transport.history)


@dataclass(frozen=True, eq=False)
class _Task:
    """Input of the steps that run twice if labels are known.

    - `cells`, `problem`: The cells, and the transport of their prototypes.
    - `nearest`: (N,) prototype of each cell.
    - `step`: Fraction of the displacement that is applied.
    - `progress`: Called with the name of each stage.
    """

    cells: StandardizedCells
    problem: TransportProblem
    nearest: NDArray[np.int64]
    step: float
    progress: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _FittedMaps:
    """A transport and the maps it gives.

    - `transport`, `maps`, `reference`: The transport, the maps, and what new groups are transported onto.
    - `types`: Classifier of the labeled types; None without labels, or if the cells do not support them.
    - `predictability`: (C,) how well each type is predicted, 0 to 1.
    """

    transport: Transport
    maps: tuple[GroupMap, ...]
    reference: Reference
    types: Types | None
    predictability: NDArray[np.float64]


def _fit_maps(task: _Task) -> _FittedMaps:
    """Transport the prototypes, derive the maps, and keep of the maps what does not reduce the mixing."""
    cells, problem = task.cells, task.problem
    prototypes, hyperparameters, options = problem.prototypes, problem.hyperparameters, problem.options
    initial = initialize_coupling(prototypes, len(cells.x), hyperparameters.resolution, options.seed)
    transport = fit_transport(problem, initial, task.progress)
    maps, covariance = fit_group_maps(problem, transport, cells, task.nearest, task.step)
    task.progress("refinement")
    maps, shape_kept, refinement_kept = keep_if_mixing_holds(
        maps, prototypes, cells, hyperparameters.mnn_fraction * task.step, options
    )
    empty = np.empty((0, cells.x.shape[1]), np.float32)
    reference = Reference(
        centers=transport.coupling.centers,
        weight=transport.coupling.weight,
        target=transport.centers.target,
        mean_proportions=transport.centers.mean_proportions,
        covariance=covariance,
        image=empty,
        landmarks=empty,
        shape_kept=shape_kept,
        refinement_kept=refinement_kept,
    )
    return _FittedMaps(transport, maps, reference, None, np.zeros(0))


def _add_labels(task: _Task, unsupervised: _FittedMaps) -> _FittedMaps:
    """Fit a classifier of the types after the first transport, and transport once more with its predictions.

    The classifier predicts the types of all cells, so that few labels help too. If fewer than two types can be
    predicted from the cells, the labels are ignored.
    """
    types, predictability, probabilities = _fit_types(task, unsupervised.maps)
    if (predictability > 0).sum() < 2:
        return unsupervised
    cells, problem = task.cells, task.problem
    # Labels of a single group cannot show whether the first transport put another group in the wrong place.
    if cells.label is None or len(np.unique(cells.group[cells.label >= 0])) < 2:
        return replace(unsupervised, types=types, predictability=predictability)
    of_prototypes = average_over_prototypes(probabilities, task.nearest, len(problem.prototypes.mass))
    weighted = of_prototypes * predictability.astype(np.float32)
    supervised = _fit_maps(replace(task, problem=replace(problem, type_probabilities=weighted)))
    types, predictability, _ = _fit_types(task, supervised.maps)
    return replace(supervised, types=types, predictability=predictability)


def _fit_types(task: _Task, maps: tuple[GroupMap, ...]) -> tuple[Types, NDArray[np.float64], NDArray[np.float32]]:
    """Return the types, (C,) how well each is predicted, and (N, C) probabilities of the types of all cells."""
    cells, options = task.cells, task.problem.options
    assert cells.label is not None
    mapped = apply_maps(maps, cells, np.arange(len(cells.x)), options.search_device)
    types, predictability = fit_types(mapped, cells.label, options.seed)
    return types, predictability, predict_type_probabilities(mapped, types)


def _score(
    state: IntegrationState, cells: StandardizedCells, transport: Transport, options: FitOptions
) -> dict[str, float]:
    centers = transport.centers
    shared_mass = np.minimum(centers.proportions, centers.mean_proportions).sum(axis=1)
    scores = score_fit(
        state,
        cells,
        options,
        iteration=len(transport.history),
        transported_mass=float(shared_mass.mean()),
        converged=transport.coupling.converged,
    )
    return scores | {"shape_kept": state.reference.shape_kept, "projector_kept": state.reference.refinement_kept}
