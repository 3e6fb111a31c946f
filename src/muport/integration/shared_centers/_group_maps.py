"""The maps of the groups: from a transport to one map per group, and what of each map is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import GroupMap, apply_assigned_map, apply_map
from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.shared_centers._diagnostics import DIAGNOSED_CELLS, measure_mixing
from muport.integration.shared_centers._displacement import (
    compute_anchors,
    compute_residual_covariances,
    compute_shape_changes,
    estimate_agreement,
    shrink_covariances,
)
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._displacement import Translation
    from muport.integration.shared_centers._transport import Transport, TransportProblem

__all__ = [
    "apply_fractions",
    "apply_maps",
    "blend_maps",
    "build_group_maps",
    "fit_group_maps",
    "keep_if_mixing_holds",
    "map_prototypes",
]

_KEPT_MIXING = 0.99  # fraction of the mixing without a change that must remain with it
_KEPT_FRACTIONS = (1.0, 0.5, 0.25)  # of the refinement, tried in this order


def fit_group_maps(
    problem: TransportProblem,
    transport: Transport,
    cells: StandardizedCells,
    nearest: NDArray[np.int64],
    batch_effect: float,
) -> tuple[tuple[GroupMap, ...], NDArray[np.float64]]:
    """Turn a transport into the maps of the groups (Eqs 7 and 16).

    - `nearest`: (N,) prototype of each cell.
    - `batch_effect`: Evidence of a batch effect, 0..1.

    Returns the maps, and the (d, d) covariance toward which the residuals of every group are changed.
    """
    prototypes, hyperparameters = problem.prototypes, problem.hyperparameters
    fixed_groups = problem.options.fixed_groups
    anchor, weight = compute_anchors(prototypes, transport.coupling, transport.centers)
    covariance, total = compute_residual_covariances(cells.x, cells.start, nearest, anchor, weight)
    target = covariance[list(fixed_groups) or slice(None)].mean(axis=0)
    fraction = hyperparameters.move_fraction(batch_effect)
    shrunk = shrink_covariances(covariance, total, target)
    change = compute_shape_changes(shrunk, target, problem.options.match_shapes)
    shape = np.float32(hyperparameters.shape_fraction * fraction) * change
    shift = apply_fractions(transport.translation, prototypes, hyperparameters, batch_effect)
    for group in fixed_groups:
        shift[prototypes.of(group)] = 0
        shape[group] = 0
    agreement = estimate_agreement(prototypes, transport.coupling, transport.centers, hyperparameters.full_agreement)
    return build_group_maps(prototypes, shift, anchor, agreement, shape), target


def apply_fractions(
    translation: Translation, prototypes: Prototypes, hyperparameters: Hyperparameters, batch_effect: float
) -> NDArray[np.float32]:
    """(P, d) displacements that are applied.

    The mean displacement of a group is known far better than those of its types, so it needs less evidence.
    """
    group_fraction = hyperparameters.move_fraction(max(batch_effect, translation.certainty))
    return translation.of_prototypes(prototypes.group, group_fraction, hyperparameters.move_fraction(batch_effect))


def build_group_maps(
    prototypes: Prototypes,
    shift: NDArray[np.float32],
    anchor: NDArray[np.float32],
    agreement: NDArray[np.float32],
    shape: NDArray[np.float32],
) -> tuple[GroupMap, ...]:
    """Split arrays over all prototypes into one map per group."""
    return tuple(
        GroupMap(
            prototypes.position[rows],
            shift[rows].astype(np.float32),
            anchor[rows],
            agreement[rows],
            shape[group].astype(np.float32),
        )
        for group, rows in enumerate(map(prototypes.of, range(prototypes.n_groups)))
    )


def blend_maps(
    before: tuple[GroupMap, ...], after: tuple[GroupMap, ...], weight: NDArray[np.float32], prototypes: Prototypes
) -> tuple[GroupMap, ...]:
    """Average two maps of every group: `weight` (P,) is that of the second at each prototype, from 0 to 1."""

    def blend(one: GroupMap, two: GroupMap, of_group: NDArray[np.float32]) -> GroupMap:
        column, largest = of_group[:, None], of_group.max()
        return GroupMap(
            one.position,
            (1 - column) * one.shift + column * two.shift,
            (1 - column) * one.anchor + column * two.anchor,
            (1 - of_group) * one.agreement + of_group * two.agreement,
            (1 - largest) * one.shape + largest * two.shape,
        )

    rows = map(prototypes.of, range(prototypes.n_groups))
    return tuple(blend(one, two, weight[own]) for one, two, own in zip(before, after, rows, strict=True))


def keep_if_mixing_holds(
    maps: tuple[GroupMap, ...],
    prototypes: Prototypes,
    cells: StandardizedCells,
    mnn_fraction: float,
    options: FitOptions,
) -> tuple[tuple[GroupMap, ...], float, float]:
    """Keep the change of shape, and then the MNN refinement, unless the groups mix less with it than without (Eq. 17).

    - `maps`: Maps with the change of shape, and without the refinement.
    - `prototypes`, `cells`: What was transported, and the cells on a sample of which the mixing is measured.
    - `mnn_fraction`: Fraction of the distance between mutual nearest neighbors that each of them moves.

    Returns the maps, and the fractions (0..1) of the change of shape and of the refinement that are kept.
    """
    if len(maps) < 2:
        return maps, 1.0, 1.0
    rows = cells.sample_rows(DIAGNOSED_CELLS, options.seed + 2)
    group = cells.group_of(rows)

    # the candidates have the same prototypes, so the nearest ones of a cell are searched once
    samples = [
        (code, x, *soft_assign(x, maps[code].position, device=options.search_device))
        for code, x in _split_by_group(cells, rows)
    ]

    def mixing_with(candidate: tuple[GroupMap, ...]) -> float:
        mapped = [apply_assigned_map(x, candidate[code], near, weight) for code, x, near, weight in samples]
        return measure_mixing(np.concatenate(mapped), group, len(maps))

    without_shape = tuple(replace(group_map, shape=np.zeros_like(group_map.shape)) for group_map in maps)
    mixing_without, mixing = mixing_with(without_shape), mixing_with(maps)
    shape_kept = float(mixing >= _KEPT_MIXING * mixing_without)
    if not shape_kept:
        maps, mixing = without_shape, mixing_without
    if mnn_fraction == 0:
        return maps, shape_kept, 1.0
    mnn_shift = _estimate_mnn_shift_of_maps(maps, prototypes, options.fixed_groups)
    for kept in _KEPT_FRACTIONS:
        refined = _translate_maps(maps, prototypes, kept * mnn_fraction * mnn_shift)
        if mixing_with(refined) >= _KEPT_MIXING * mixing:
            return refined, shape_kept, kept
    return maps, shape_kept, 0.0


def _estimate_mnn_shift_of_maps(
    maps: tuple[GroupMap, ...], prototypes: Prototypes, fixed_groups: tuple[int, ...]
) -> NDArray[np.float32]:
    agreement = np.concatenate([group_map.agreement for group_map in maps])
    shift = agreement[:, None] * estimate_mnn_shift(prototypes, map_prototypes(maps))
    if fixed_groups:
        # Fixed groups do not move, so the others move the whole distance.
        shift *= 2
    for group in fixed_groups:
        shift[prototypes.of(group)] = 0
    return shift


def _translate_maps(
    maps: tuple[GroupMap, ...], prototypes: Prototypes, shift: NDArray[np.float32]
) -> tuple[GroupMap, ...]:
    groups = map(prototypes.of, range(prototypes.n_groups))
    return tuple(
        replace(group_map, shift=(group_map.shift - shift[rows]).astype(np.float32))
        for group_map, rows in zip(maps, groups, strict=True)
    )


def map_prototypes(maps: Iterable[GroupMap]) -> NDArray[np.float32]:
    """Map the prototypes of every group; returns (P, d)."""
    return np.concatenate([apply_map(group_map.position, group_map) for group_map in maps])


def apply_maps(
    maps: tuple[GroupMap, ...], cells: StandardizedCells, rows: NDArray[np.int64], device: str | None
) -> NDArray[np.float32]:
    """Map standardized cells, each by the map of its group, without sharpening; `rows` must be sorted."""
    return np.concatenate([apply_map(x, maps[code], device) for code, x in _split_by_group(cells, rows)])


def _split_by_group(cells: StandardizedCells, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Code and cells of each group that has cells in the sorted `rows`."""
    cut = np.searchsorted(rows, cells.start)
    for code, (low, high) in enumerate(zip(cut[:-1], cut[1:], strict=True)):
        if high > low:
            yield code, cells.x[rows[low:high]]
