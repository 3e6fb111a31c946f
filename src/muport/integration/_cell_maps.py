"""The maps of rows: those of their fitted groups, and maps that are fitted or added up for groups that are new."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport._keys import split_levels
from muport.integration._batch_design import MODALITY
from muport.integration._working_space import embed_rows, find_fitted_group
from muport.integration.batch_variables._covariates import remove_covariates
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._new_groups import fit_new_groups
from muport.integration.shared_centers._variable_maps import build_level_map, keep_known_levels
from muport.integration.spaces._joint_space import JointSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._fitted_state import GroupMap, IntegrationState
    from muport.integration._hyperparameters import FitOptions, Hyperparameters
    from muport.integration._working_space import EmbeddedRows, Space
    from muport.integration.batch_variables._covariates import CovariateEffects

__all__ = ["assign_maps", "describe_groups", "embed_without_covariates", "find_new_maps", "levels_of_group"]


def embed_without_covariates(
    rows: Rows, space: Space | None, covariates: CovariateEffects | None, device: str | None = None
) -> EmbeddedRows:
    """Embed rows in the space of the transport, and remove the effects of the covariates there."""
    embedded = embed_rows(rows, space)
    if covariates is None or rows.covariates is None:
        return embedded
    x = remove_covariates(embedded.rows.x, rows.covariates[embedded.rows.cell], covariates, device)
    return replace(embedded, rows=replace(embedded.rows, x=x))


def assign_maps(rows: Rows, state: IntegrationState) -> NDArray[np.int64]:
    """Assign each row (n_rows,) the position of its map; the maps of unknown groups follow the fitted ones."""
    position = dict(zip(state.groups, state.map_of_group, strict=True))
    position |= {name: len(state.maps) + i for i, name in enumerate(_find_unknown_groups(rows, state))}
    groups = [_find_group(name, state) or name for name in rows.groups]
    codes: NDArray[np.int64] = np.array([position[name] for name in groups], dtype=np.int64)[rows.group]
    return codes


def find_new_maps(
    rows: Rows, state: IntegrationState, hyperparameters: Hyperparameters, options: FitOptions
) -> tuple[GroupMap, ...]:
    """Find the maps of the groups that the state does not know, in the order in which :func:`assign_maps` counts them.

    A new combination of known levels of several batch variables has the sum of their effects, whatever its cells. Other
    groups are fitted: their cells are transported to the fitted centers.
    """
    unknown = _find_unknown_groups(rows, state)
    if not unknown:
        return ()
    levels = _find_levels(rows, state)
    effects = state.variables
    maps = {
        name: build_level_map(effects, levels[name])
        for name in unknown
        if effects is not None and not effects.find_unknown(levels[name])
    }
    fitted = [name for name in unknown if name not in maps]
    if fitted:
        codes = np.array([fitted.index(name) if name in fitted else -1 for name in rows.groups])[rows.group]
        new = codes >= 0
        cells = standardize_cells(rows.x[new], codes[new], tuple(fitted), scaling=(state.center, state.scale))
        new_maps = fit_new_groups(cells, state, hyperparameters, options)
        for name, group_map in zip(cells.group_names, new_maps, strict=True):
            maps[name] = group_map if effects is None else keep_known_levels(group_map, effects, levels[name])
    return tuple(maps[name] for name in unknown)


def describe_groups(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the batch (G,) and the modality (G,) of each group."""
    first = np.unique(rows.group, return_index=True)[1]
    return rows.batch[first], rows.modality[first]


def levels_of_group(batch: str, modality: str | None, n_variables: int) -> tuple[str, ...]:
    """Return the levels of a group of `n_variables` batch variables; None: the modality is no variable."""
    levels = split_levels(batch) if n_variables > 1 else (batch,) * n_variables
    return levels if modality is None else (*levels, modality)


def _find_levels(rows: Rows, state: IntegrationState) -> dict[str, tuple[str, ...]]:
    """Find the levels of each group of the rows; none with one batch variable."""
    if state.variables is None:
        return {}
    by_modality = state.variables.names[-1] == MODALITY
    n_variables = len(state.variables.names) - by_modality
    return {
        rows.groups[group]: levels_of_group(
            rows.batches[batch], rows.modalities[modality] if by_modality else None, n_variables
        )
        for group, (batch, modality) in enumerate(zip(*describe_groups(rows), strict=True))
    }


def _find_group(name: str, state: IntegrationState) -> str | None:
    if isinstance(state.space, JointSpace):
        return find_fitted_group(name, state.groups)
    return name if name in state.groups else None


def _find_unknown_groups(rows: Rows, state: IntegrationState) -> tuple[str, ...]:
    return tuple(name for name in rows.groups if _find_group(name, state) is None)
