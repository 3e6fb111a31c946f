"""What follows the maps: the centers of the sharpening, and the displacement that separates labeled types."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import predict_type_probabilities, sharpen_and_separate
from muport.integration.labels._type_separation import separate_types
from muport.integration.shared_centers._diagnostics import DIAGNOSED_CELLS
from muport.integration.shared_centers._group_maps import apply_maps
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState
    from muport.integration._hyperparameters import FitOptions
    from muport.integration.prototypes._standardized_cells import StandardizedCells

__all__ = ["add_sharpening", "add_type_separation", "evenly_spaced_rows"]

_CELLS_PER_CENTER = 16  # on which a center of the sharpening is fitted
_LEAST_CENTERS, _MOST_CENTERS = 16, 1000
_SEPARATION_CELLS = 10_000  # on which the distances between types are measured


def add_sharpening(state: IntegrationState, cells: StandardizedCells, options: FitOptions) -> IntegrationState:
    """Fit the centers of the sharpening, with the same weight for every group, and store a sample of mapped cells.

    The sample, the landmarks of the reference, is what a new group is compared with in the batch effect test.
    """
    n_centers = int(np.clip(2 * np.sqrt(len(cells.x)), _LEAST_CENTERS, _MOST_CENTERS))
    n_sampled = max(_CELLS_PER_CENTER * n_centers if state.sharpening > 0 else 0, DIAGNOSED_CELLS)
    rows = cells.sample_rows(n_sampled, options.seed)
    mapped = apply_maps(state.maps, cells, rows, options.search_device)
    landmarks = mapped[evenly_spaced_rows(len(mapped), DIAGNOSED_CELLS)]
    state = replace(state, reference=replace(state.reference, landmarks=landmarks))
    if state.sharpening == 0:
        return state
    group = cells.group_of(rows)
    weights = 1 / np.bincount(group, minlength=len(cells.group_names))[group]
    clusters = kmeans(mapped, n_centers, weights=weights, n_iter=10, random_state=options.seed)
    return replace(state, sharpening_centers=clusters.centers)


def evenly_spaced_rows(total: int, number: int) -> NDArray[np.int64]:
    """At most `number` of `total` rows, evenly spaced, in ascending order."""
    return np.unique(np.linspace(0, total - 1, min(number, total)).astype(np.int64))


def add_type_separation(
    state: IntegrationState,
    cells: StandardizedCells,
    predictability: NDArray[np.float64],
    supervision: float,
    move_fraction: float,
    options: FitOptions,
) -> IntegrationState:
    """Set the displacement that separates the types, from distances between sharpened cells.

    - `state`: State with sharpening, and with types that do not move yet; returned without types if groups stay in
      place.
    - `predictability`: (C,) how well each type is predicted, 0 to 1.
    - `move_fraction`: Fraction of the estimated displacement that is applied, 0..1.
    """
    if state.types is None or options.fixed_groups:
        return replace(state, types=None)
    rows = cells.sample_rows(_SEPARATION_CELLS, options.seed)
    mapped = apply_maps(state.maps, cells, rows, options.search_device)
    sharpened = sharpen_and_separate(mapped, replace(state, types=None), options.search_device)
    probabilities = predict_type_probabilities(mapped, state.types)
    shift = separate_types(sharpened, probabilities, predictability, supervision)
    return replace(state, types=replace(state.types, shift=np.float32(move_fraction) * shift))
