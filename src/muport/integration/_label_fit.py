"""The label model of an integration: fitted to the labeled rows in the integrated space."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._cell_maps import assign_maps, embed_without_covariates
from muport.integration._fitted_state import transform_cells
from muport.integration._inference import get_representations
from muport.integration._working_space import separate_paired_cells
from muport.integration.labels._label_transfer import fit_labels
from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._joint_space import JointSpace
from muport.integration.spaces._shared_space import SharedSpace

if TYPE_CHECKING:
    from muport.data import Rows
    from muport.integration._fitted_state import IntegrationState
    from muport.integration._hyperparameters import FitOptions
    from muport.integration._working_space import Space
    from muport.integration.labels._label_transfer import Representations

__all__ = ["add_labels"]


def add_labels(state: IntegrationState, embedded: Rows, rows: Rows, options: FitOptions) -> IntegrationState:
    """Fit the labels in the integrated space, and add them to the state."""
    # Votes are counted before sharpening, which would move cells of a small type to the centers of their neighbors, and
    # before types are separated, which would use the labels on which the confidence is calibrated.
    plain = replace(state, sharpening=0.0, types=None)
    parts, cell = [embedded], embedded.cell
    if isinstance(state.space, JointSpace):
        separate, separate_cell = separate_paired_cells(rows)
        if len(separate_cell):
            further = embed_without_covariates(separate, state.space, state.covariates, options.search_device)
            parts, cell = [embedded, further.rows], np.concatenate([cell, separate_cell])
    y = [transform_cells(part.x, assign_maps(part, state), plain, device=options.search_device) for part in parts]
    z = standardize(np.concatenate(y), state.center, state.scale)
    own = _concatenate_representations(parts)
    made_of_own = _is_made_of_own(state.space)
    labels = fit_labels(z, rows.label[cell], rows.labels, own, options.seed, cell, len(embedded.x), made_of_own)
    return replace(state, labels=labels)


def _is_made_of_own(space: Space | None) -> bool:
    """Whether the space is made of the own representations of the modalities, as far as they have something in common.

    Modalities that are aligned by their geometry alone (GromovSpace) do not count: what the weights and the classifier
    of :func:`fit_labels` do there was not measured.
    """
    return isinstance(space, JointSpace) or (isinstance(space, SharedSpace) and space.n_canonical > 0)


def _concatenate_representations(parts: list[Rows]) -> Representations:
    """Concatenate the own representations of several parts, whose rows are concatenated too."""
    representations, start = dict(get_representations(parts[0])), len(parts[0].x)
    for part in parts[1:]:
        for name, (rows, values) in get_representations(part).items():
            before = representations.get(name)
            if before is not None and before[1] is not None and values is not None:
                representations[name] = np.append(before[0], start + rows), np.concatenate([before[1], values])
            else:
                representations[name] = start + rows, values
        start += len(part.x)
    return representations
