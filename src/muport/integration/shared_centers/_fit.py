"""The default algorithm, ``"shared"``: all steps in their order, from the cells of all groups to the fitted state.

A group is a batch or, with several modalities, a batch of one modality (in a joint space: of one set of modalities).
Equation numbers in this package are those of the scBIOT paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from muport.integration._fitted_state import IntegrationState, Reference, predict_type_probabilities
from muport.integration.labels._type_separation import fit_types
from muport.integration.prototypes._prototypes import fit_prototypes
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.integration.shared_centers._coupling import initialize_coupling
from muport.integration.shared_centers._diagnostics import compute_metrics
from muport.integration.shared_centers._distant_partners import find_distant_partners
from muport.integration.shared_centers._group_maps import (
    apply_maps,
    blend_maps,
    fit_group_maps,
    keep_if_mixing_holds,
    map_prototypes,
)
from muport.integration.shared_centers._label_penalty import average_over_prototypes
from muport.integration.shared_centers._sharpening import add_sharpening, add_type_separation
from muport.integration.shared_centers._transport import TransportProblem, fit_transport
from muport.integration.shared_centers._variable_maps import design_rows, measure_variables, split_by_variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.integration._fitted_state import GroupMap, Types
    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.batch_variables._variable_effects import VariableEffects
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._transport import History, Transport

__all__ = ["IntegrationFit", "fit_shared_centers"]

_GENTLE = 0.5  # largest strength, the default one, at which partners are looked for


@dataclass(frozen=True, eq=False)
class IntegrationFit:
    """A fitted state, its metrics, and the history of its outer iterations."""

    state: IntegrationState
    metrics: Annotated[dict[str, float], "any"]
    # read back from files by this annotation, so it is written out
    history: tuple[tuple[float, float, float], ...]


def fit_shared_centers(
    cells: StandardizedCells,
    hyperparameters: Hyperparameters,
    options: FitOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> IntegrationFit:
    """Fit an integration: transport all groups onto shared centers.

    - `cells`: Standardized cells, sorted so that the result does not depend on the order of the input.
    - `progress`: Called with the name of each stage: ``"evidence"``, ``"prototypes"``, ``"transport"`` (in every outer
      iteration), ``"refinement"``, ``"labels"``, ``"centers"`` and ``"diagnostics"``.
    """
    # 1. `move_fraction` (0..1) of every estimated move is applied. It grows with the evidence of a batch effect (0..1),
    #    and without evidence it is 0, unless conservation is below 1/2, or groups as a whole are surely apart.
    progress("evidence")
    batch_effect = measure_batch_effect(cells.x, cells.group, len(cells.group_names), options.seed)
    move_fraction = hyperparameters.move_fraction(batch_effect)
    # 2. Prototypes make the cost of the transport independent of the number of cells (Eq. 1).
    progress("prototypes")
    prototypes, nearest = fit_prototypes(cells.x, cells.start, hyperparameters.resolution, options.seed)
    # 3. Transport of the prototypes gives one map per group (Eqs 2-7 and 16).
    problem = TransportProblem(prototypes, cells.second_moment, hyperparameters, options)
    inputs = _MapInputs(cells, problem, nearest, batch_effect, progress)
    fitted = _fit_maps(inputs)
    # 4. If there are labels, types predicted from them may be used in a second transport.
    if cells.label is not None and (cells.label >= 0).any() and hyperparameters.supervision * move_fraction > 0:
        progress("labels")
        fitted = _add_labels(inputs, fitted)
    # 5. With several batch variables, the effects of each are removed as far as its strength says.
    whole_maps, variables = fitted.maps, None
    if options.design is not None:
        fitted, variables = _split_by_variable(inputs, fitted)
    # 6. Cells are pulled toward cluster centers (Eqs 10-12), and labeled types are separated.
    progress("centers")
    state = IntegrationState(
        center=cells.center,
        scale=cells.scale,
        groups=cells.group_names,
        # every fitted group has its own map; only batches that were merged before the fit share one
        map_of_group=tuple(range(len(fitted.maps))),
        maps=fitted.maps,
        sharpening_centers=np.empty((0, cells.x.shape[1]), np.float32),
        sharpening=hyperparameters.sharpening * move_fraction,
        reference=fitted.reference,
        batch_effect=batch_effect,
        types=fitted.types,
        variables=variables,
    )
    state = add_sharpening(state, cells, options)
    state = add_type_separation(
        state, cells, fitted.predictability, hyperparameters.supervision, move_fraction, options
    )
    # 7. The mixing of groups and the conservation of structure are measured on a sample of the cells (Eqs 17-22).
    progress("diagnostics")
    metrics = compute_metrics(state, cells, options, **fitted.transport_metrics)
    # "projector" is the public name of the MNN refinement.
    metrics |= {"shape_kept": state.reference.shape_kept, "projector_kept": state.reference.refinement_kept}
    if options.design is not None:
        metrics |= measure_variables(state, whole_maps, cells, options)
    return IntegrationFit(state, metrics, fitted.history)


@dataclass(frozen=True, eq=False)
class _MapInputs:
    """Inputs of the maps, which are fitted twice if labels are used.

    - `nearest`: (N,) prototype of each cell.
    - `batch_effect`: Evidence of a batch effect, 0..1.
    """

    cells: StandardizedCells
    problem: TransportProblem
    nearest: NDArray[np.int64]
    batch_effect: float
    progress: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _FittedMaps:
    """The maps that a transport gives.

    - `transport_metrics`: Metrics of the transport.
    - `history`: Its iterations.
    - `types`: Classifier of the labeled types; None without labels, or if fewer than two types can be predicted.
    - `predictability`: (C,) how well each type is predicted, 0..1; (0,) without types.
    """

    maps: tuple[GroupMap, ...]
    reference: Reference
    transport_metrics: dict[str, Any]
    history: History
    types: Types | None
    predictability: NDArray[np.float64]


def _fit_maps(inputs: _MapInputs) -> _FittedMaps:
    """Transport the prototypes and derive the maps; keep only those parts of the maps that do not reduce the mixing."""
    fitted, cells, options = _transport_prototypes(inputs), inputs.cells, inputs.problem.options
    hyperparameters = inputs.problem.hyperparameters
    inputs.progress("refinement")
    maps, shape_kept, refinement_kept = keep_if_mixing_holds(
        fitted.maps,
        inputs.problem.prototypes,
        cells,
        hyperparameters.mnn_fraction * hyperparameters.move_fraction(inputs.batch_effect),
        options,
    )
    reference = replace(
        fitted.reference,
        mapped_prototypes=map_prototypes(maps),
        shape_kept=shape_kept,
        refinement_kept=refinement_kept,
    )
    return replace(fitted, maps=maps, reference=reference)


def _transport_prototypes(inputs: _MapInputs) -> _FittedMaps:
    """Transport the prototypes, and derive the maps; once more if types were left without partners they seem to have.

    The maps of the second transport get the weight of the evidence for these partners, so they vary continuously with
    the cells.
    """
    problem = inputs.problem
    prototypes, hyperparameters, options = problem.prototypes, problem.hyperparameters, problem.options
    # A fixed group does not move, and the shapes of modalities say nothing about their types.
    if inputs.batch_effect == 0 or options.fixed_groups or options.match_shapes or hyperparameters.full_agreement == 0:
        return _derive_maps(inputs, _fit_transport(inputs))
    # With more than the default strength types are also united by force, after which partners are hard to tell.
    gentle = replace(problem, hyperparameters=replace(hyperparameters, strength=min(hyperparameters.strength, _GENTLE)))
    first = _fit_transport(replace(inputs, problem=gentle))
    partners = find_distant_partners(prototypes, first, inputs.cells, inputs.nearest, options.seed)
    start = None if partners is None else partners.displacement + first.translation.of_prototypes(prototypes.group)
    transported_mass = first.transported_mass
    if hyperparameters.strength > _GENTLE:
        first = _fit_transport(inputs)
    fitted = _derive_maps(inputs, first)
    if partners is None:
        return fitted
    del first
    second = _derive_maps(inputs, _fit_transport(inputs, start))
    gain = second.transport_metrics["transported_mass"] - transported_mass
    weight = partners.weight * np.float32(np.clip(2 * gain / partners.expected_gain, 0, 1))
    maps = blend_maps(fitted.maps, second.maps, weight, prototypes)
    return replace(second if weight.max() >= 0.5 else fitted, maps=maps)


def _fit_transport(inputs: _MapInputs, start: NDArray[np.float32] | None = None) -> Transport:
    """Transport the prototypes, starting from displacements (P, d) of them."""
    problem = inputs.problem
    moved = problem.prototypes
    if start is not None:
        moved = replace(moved, position=moved.position - start)
    resolution, seed = problem.hyperparameters.resolution, problem.options.seed
    initial = initialize_coupling(moved, len(inputs.cells.x), resolution, seed)
    return fit_transport(problem, initial, inputs.progress, start)


def _derive_maps(inputs: _MapInputs, transport: Transport) -> _FittedMaps:
    """Derive the maps from a transport. The plan, which is large, is not kept."""
    cells, coupling, centers = inputs.cells, transport.coupling, transport.centers
    maps, covariance = fit_group_maps(inputs.problem, transport, cells, inputs.nearest, inputs.batch_effect)
    # the prototypes are mapped, and landmarks are drawn, once the maps are final
    later = np.empty((0, cells.x.shape[1]), np.float32)
    reference = Reference(
        centers=coupling.centers,
        weight=coupling.weight,
        target=centers.target,
        mean_proportions=centers.mean_proportions,
        covariance=covariance,
        mapped_prototypes=later,
        landmarks=later,
    )
    metrics = {
        "iteration": len(transport.history),
        "transported_mass": transport.transported_mass,
        "converged": coupling.converged,
    }
    return _FittedMaps(maps, reference, metrics, transport.history, None, np.zeros(0))


def _add_labels(inputs: _MapInputs, unsupervised: _FittedMaps) -> _FittedMaps:
    """Fit a classifier of the types after the first transport, and transport once more with its predictions.

    The classifier predicts the types of all cells, so that few labels help too. If fewer than two types can be
    predicted, the labels are ignored.
    """
    types, predictability, probabilities = _fit_types(inputs, unsupervised.maps)
    if (predictability > 0).sum() < 2:
        return unsupervised
    cells, problem = inputs.cells, inputs.problem
    # With labels of one group only, the alignment of the others cannot be checked: the transport is not repeated.
    if cells.label is None or len(np.unique(cells.group[cells.label >= 0])) < 2:
        return replace(unsupervised, types=types, predictability=predictability)
    of_prototypes = average_over_prototypes(probabilities, inputs.nearest, len(problem.prototypes.mass))
    # The weighted rows may sum to less than 1: a type that is hard to predict has less effect on the transport.
    weighted = of_prototypes * predictability.astype(np.float32)
    supervised = _fit_maps(replace(inputs, problem=replace(problem, type_probabilities=weighted)))
    types, predictability, _ = _fit_types(inputs, supervised.maps)
    return replace(supervised, types=types, predictability=predictability)


def _split_by_variable(inputs: _MapInputs, fitted: _FittedMaps) -> tuple[_FittedMaps, VariableEffects]:
    """Split the maps by batch variable; types are predicted from the cells where the new maps leave them."""
    problem = inputs.problem
    rows = design_rows(problem.options, inputs.cells.group_names)
    target = fitted.reference.target
    maps, variables = split_by_variable(fitted.maps, problem.prototypes, target, rows, problem.options)
    if maps is fitted.maps:
        return fitted, variables
    fitted = replace(fitted, maps=maps)
    if fitted.types is not None:
        types, predictability, _ = _fit_types(inputs, maps)
        fitted = replace(fitted, types=types, predictability=predictability)
    return fitted, variables


def _fit_types(
    inputs: _MapInputs, maps: tuple[GroupMap, ...]
) -> tuple[Types, NDArray[np.float64], NDArray[np.float32]]:
    """Return the types, (C,) how well each is predicted, and (N, C) probabilities of the types of all cells."""
    cells, options = inputs.cells, inputs.problem.options
    assert cells.label is not None  # for mypy; the caller fits types only to labels  # nosec B101
    mapped = apply_maps(maps, cells, np.arange(len(cells.x)), options.search_device)
    types, predictability = fit_types(mapped, cells.label, options.seed)
    return types, predictability, predict_type_probabilities(mapped, types)
