"""The batch variables and the covariates of rows: the levels of each group, and effects that are removed first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._batch_design import MODALITY, BatchDesign
from muport.integration._cell_maps import describe_groups, levels_of_group
from muport.integration._working_space import embed_rows
from muport.integration.batch_variables._covariates import (
    CovariateEffects,
    fit_covariates,
    remove_covariates,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._batch_design import Strengths
    from muport.integration._working_space import EmbeddedRows, Space

__all__ = [
    "build_design",
    "embed_and_fit_covariates",
]


def build_design(
    rows: Rows, merged_of_group: NDArray[np.int64], names: Sequence[str], strengths: Strengths
) -> BatchDesign | None:
    """Build the design of the groups that are fitted; None for one batch variable without a strength of its own.

    - `rows`: Rows in the space of the transport.
    - `merged_of_group`: (G,) position in `names` of the fitted group of each group of the rows.
    """
    variables = list(strengths.of_batches)
    by_modality = MODALITY in variables
    n_variables = len(variables) - by_modality
    fractions = [strengths.fraction_of(name) for name in variables]
    if len(variables) < 2 or (n_variables == 1 and set(fractions) == {1.0}):
        return None
    n_cells = np.bincount(rows.group, minlength=len(rows.groups))
    groups: dict[str, dict[tuple[str, ...], float]] = {}
    for group, (batch, modality) in enumerate(zip(*describe_groups(rows), strict=True)):
        levels = levels_of_group(rows.batches[batch], rows.modalities[modality] if by_modality else None, n_variables)
        groups.setdefault(names[merged_of_group[group]], {})[levels] = float(n_cells[group])
    return BatchDesign.of(variables, fractions, groups)


def embed_and_fit_covariates(
    rows: Rows, space: Space | None, strengths: Strengths, seed: int, device: str | None
) -> tuple[EmbeddedRows, EmbeddedRows, CovariateEffects | None]:
    """Embed rows, fit the effects of the covariates, and remove them: rows before and after, and the effects."""
    embedded = embed_rows(rows, space)
    if rows.covariates is None:
        return embedded, embedded, None
    inner, values = embedded.rows, rows.covariates[embedded.rows.cell]
    names, fractions = list(strengths.of_covariates), strengths.fractions_of_covariates
    effects = fit_covariates(inner.x, inner.group, values, names, fractions, seed)
    x = remove_covariates(inner.x, values, effects, device)
    return embedded, replace(embedded, rows=replace(inner, x=x)), effects
