"""Maps that remove the effects of each of several batch variables as far as its strength says."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import GroupMap, apply_map, transform_cells
from muport.integration.batch_variables._confounding import find_confounding
from muport.integration.batch_variables._covariates import describe_covariates
from muport.integration.batch_variables._explained_variance import explain_variance
from muport.integration.batch_variables._variable_effects import (
    GroupMoves,
    VariableEffects,
    fit_variable_effects,
    split_moves,
)
from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.shared_centers._group_maps import apply_maps, map_prototypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from muport.integration._batch_design import BatchDesign
    from muport.integration._fitted_state import IntegrationState
    from muport.integration._hyperparameters import FitOptions
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import StandardizedCells

__all__ = [
    "build_level_map",
    "describe_variables",
    "design_rows",
    "keep_known_levels",
    "measure_covariates",
    "measure_variables",
    "split_by_variable",
]

logger = logging.getLogger("muport")

_MEASURED_CELLS = 10_000  # on which the variance that a variable explains is measured


def split_by_variable(
    maps: tuple[GroupMap, ...],
    prototypes: Prototypes,
    target: NDArray[np.float32],
    rows: NDArray[np.float64],
    options: FitOptions,
) -> tuple[tuple[GroupMap, ...], VariableEffects]:
    """Split the maps into the effects of the batch variables, and apply of each the fraction that is asked for.

    - `target`: (K, d) points to which the cells at the shared centers are moved.
    - `rows`: (B, L) fraction of the cells of each group that have each level.

    Returns the maps, which are the same objects if all is applied, and the effects.
    """
    design = _get_design(options)
    near, weight = soft_assign(map_prototypes(maps), target)
    moves = GroupMoves(
        shift=np.concatenate([group_map.shift for group_map in maps]),
        shape=np.stack([group_map.shape for group_map in maps]),
        mass=prototypes.mass,
        start=prototypes.start,
        near=near,
        weight=weight,
        fixed=options.fixed_groups,
    )
    effects = fit_variable_effects(moves, design, rows, target)
    effects = replace(effects, confounded=find_confounding(design.names, design.n_cells).sentences)
    if all(fraction == 1 for fraction in effects.fractions):
        return maps, effects
    shift, shape = split_moves(moves, effects, rows)
    groups = map(prototypes.of, range(prototypes.n_groups))
    split = zip(maps, groups, shape, strict=True)
    return tuple(replace(old, shift=shift[of_group], shape=change) for old, of_group, change in split), effects


def design_rows(options: FitOptions, group_names: Sequence[str]) -> NDArray[np.float64]:
    """(B, L) fraction of the cells of each group that have each level."""
    design = _get_design(options)
    return np.stack([design.of_group[name] for name in group_names])


def _get_design(options: FitOptions) -> BatchDesign:
    assert options.design is not None  # for mypy; callers check it  # nosec B101
    return options.design


def build_level_map(effects: VariableEffects, combination: Sequence[str]) -> GroupMap:
    """Build the map of a combination of known levels that no fitted group has: the effects of its levels add up."""
    row = effects.encode(combination)
    whole = np.einsum("r,rkd->kd", row, effects.shift)
    applied = row * effects.row_fractions
    position = (effects.target + whole).astype(np.float32)
    return GroupMap(
        position=position,
        shift=np.einsum("r,rkd->kd", applied, effects.shift).astype(np.float32),
        anchor=position,
        agreement=np.ones(len(position), np.float32),
        shape=np.einsum("r,rde->de", applied, effects.shape).astype(np.float32),
    )


def keep_known_levels(group_map: GroupMap, effects: VariableEffects, combination: Sequence[str]) -> GroupMap:
    """Apply the fractions of the variables to the map of a new group, to the rest that of its new levels.

    - `group_map`: Map of the group onto the shared centers as a whole.
    - `combination`: Levels of the group; at least one is not known.
    """
    fraction = min(effects.fractions[v] for v in effects.find_unknown(combination))
    extra = effects.encode(combination) * (effects.row_fractions - fraction)
    if fraction == 1 and not extra.any():
        return group_map
    near, weight = soft_assign(apply_map(group_map.position, group_map), effects.target)
    of_levels = np.einsum("r,rkd->kd", extra, effects.shift)
    shift = fraction * group_map.shift + np.einsum("pq,pqd->pd", weight, of_levels[near])
    shape = fraction * group_map.shape + np.einsum("r,rde->de", extra, effects.shape)
    return replace(group_map, shift=shift.astype(np.float32), shape=shape.astype(np.float32))


def measure_variables(
    state: IntegrationState, whole_maps: tuple[GroupMap, ...], cells: StandardizedCells, options: FitOptions
) -> dict[str, float]:
    """Measure how much of the variance within clusters each variable explains, before and after, and the confounding.

    - `state`: The final state.
    - `whole_maps`: Maps that remove all effects: clusters are the shared centers that are nearest after them.
    """
    design = _get_design(options)
    rows = cells.sample_rows(_MEASURED_CELLS, options.seed + 3)
    x, group = cells.x[rows], cells.group_of(rows)
    mapped = apply_maps(whole_maps, cells, rows, options.search_device)
    cluster = soft_assign(mapped, state.reference.target, 1, options.search_device)[0][:, 0]
    of_standardized = replace(state, center=np.zeros_like(state.center), scale=1.0)
    after = transform_cells(x, group, of_standardized, device=options.search_device)
    levels = design_rows(options, cells.group_names)[group]
    columns = [levels[:, design.variable == v] for v in range(len(design.names))]
    confounding = find_confounding(design.names, design.n_cells)
    metrics = {"inseparable": float(confounding.n_effects - confounding.rank)}
    explained = zip(
        design.names, explain_variance(x, cluster, columns), explain_variance(after, cluster, columns), strict=True
    )
    for name, before, left in explained:
        metrics |= {f"r2_{name}": before, f"r2_left_{name}": left, f"confounded_{name}": confounding.explained[name]}
    return metrics


def measure_covariates(
    x: NDArray[np.float32],
    without: NDArray[np.float32],
    group: NDArray[np.int64],
    covariates: NDArray[np.float64],
    state: IntegrationState,
    seed: int,
) -> dict[str, float]:
    """Measure how much of the variance within clusters and groups each covariate explains, before and after.

    - `x`, `without`: (n, d) cells in the coordinates of the input, with and without the effects of the covariates.
    - `group`: (n,) codes into the maps of the state.
    - `covariates`: (n, J) values.
    """
    effects = state.covariates
    if effects is None:
        return {}
    taken = np.sort(np.random.default_rng(seed).permutation(len(x))[:_MEASURED_CELLS])
    y = transform_cells(without[taken], group[taken], state)
    cluster = soft_assign(standardize(y, state.center, state.scale), state.reference.target, 1)[0][:, 0]
    columns = [np.eye(len(state.maps))[group[taken]], *covariates[taken].T[:, :, None]]
    explained = [explain_variance(cells, cluster, columns)[1:] for cells in (x[taken], y)]
    metrics: dict[str, float] = {}
    for name, before, left, share in zip(effects.names, *explained, effects.explained, strict=True):
        metrics |= {f"r2_{name}": before, f"r2_left_{name}": left, f"confounded_{name}": share}
    return metrics


def describe_variables(state: IntegrationState, metrics: Mapping[str, float]) -> str:
    """Describe what each variable explains before and after, and what cannot be separated; log the latter."""
    variables, covariates = state.variables, state.covariates
    names = [*(variables.names if variables else ()), *(covariates.names if covariates else ())]
    lines = [
        f"{name}: explains {metrics[f'r2_{name}']:.1%} of the variance within clusters before, "
        f"{metrics[f'r2_left_{name}']:.1%} after."
        for name in names
    ]
    warnings = [*(variables.confounded if variables else ()), *(describe_covariates(covariates) if covariates else ())]
    for sentence in warnings:
        logger.warning("%s", sentence)
    return "\n".join([*lines, *warnings])
