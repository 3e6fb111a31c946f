"""The batch variables and the covariates of rows: the levels of each group, and effects that are removed first."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from muport.integration._batch_design import MODALITY, BatchDesign
from muport.integration._cell_maps import describe_groups, levels_of_group
from muport.integration._working_space import embed_rows
from muport.integration.batch_variables._confounding import check_separable
from muport.integration.batch_variables._covariates import (
    CovariateEffects,
    describe_covariates,
    fit_covariates,
    remove_covariates,
)
from muport.integration.batch_variables._explained_variance import explain_variance
from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.prototypes._standardized_cells import standardize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from muport.data import Rows
    from muport.integration._batch_design import Strengths
    from muport.integration._fitted_state import IntegrationState
    from muport.integration._working_space import EmbeddedRows, Space

__all__ = [
    "build_design",
    "check_batches",
    "describe_variables",
    "embed_and_fit_covariates",
    "measure_covariates",
]

logger = logging.getLogger("muport")

_MEASURED_CELLS = 10_000  # on which the variance that a covariate explains is measured


def check_batches(batches: Sequence[str], n_cells: Sequence[float], strengths: Strengths) -> None:
    """Refuse different strengths of batch variables that divide the cells alike.

    - `batches`: Names of the batches: combinations of levels.
    - `n_cells`: Number of cells of each.
    """
    names = [name for name in strengths.of_batches if name != MODALITY]
    if len(names) > 1:
        groups = {
            batch: {levels_of_group(batch, None, len(names)): float(n)}
            for batch, n in zip(batches, n_cells, strict=True)
        }
        check_separable(BatchDesign.of(names, [strengths.fraction_of(name) for name in names], groups))


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


def measure_covariates(
    before: Rows, y: NDArray[np.float32], state: IntegrationState, covariates: NDArray[np.float64], seed: int
) -> dict[str, float]:
    """Measure how much of the variance within clusters and groups each covariate explains, before and after.

    - `before`: Rows with the effects of the covariates.
    - `y`: (n_rows, d) integrated rows.
    - `covariates`: (n_rows, J) values.
    """
    effects = state.covariates
    if effects is None:
        return {}
    rng = np.random.default_rng(seed)
    taken = np.sort(rng.permutation(len(y))[:_MEASURED_CELLS])
    mapped = standardize(y[taken], state.center, state.scale)
    cluster = soft_assign(mapped, state.reference.target, 1)[0][:, 0]
    groups = np.eye(len(before.groups))[before.group[taken]]
    columns = [groups, *covariates[taken].T[:, :, None]]
    metrics: dict[str, float] = {}
    explained = [explain_variance(x, cluster, columns)[1:] for x in (before.x[taken], y[taken])]
    for name, first, left, share in zip(effects.names, *explained, effects.explained, strict=True):
        metrics |= {f"r2_{name}": first, f"r2_left_{name}": left, f"confounded_{name}": share}
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
