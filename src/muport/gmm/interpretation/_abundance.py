"""Differential abundance: log-ratios of types or components between conditions, with samples as replicates.

Symbols: P samples, T types or components, C conditions, q columns of the design.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control
from scipy.stats import t as student

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Covariate", "abundance_effects", "design_columns"]


@dataclass(frozen=True, eq=False)
class Covariate:
    """A covariate of P samples.

    - `values`: (P,) numbers, or codes of categories.
    - `categories`: Whether they are codes.
    """

    values: NDArray[np.float64]
    categories: bool

    def columns(self) -> NDArray[np.float64]:
        """Columns (P, n) of the design: the centered numbers, or indicators of all categories but the first."""
        if not self.categories:
            return (self.values - self.values.mean())[:, None]
        codes = np.unique(self.values, return_inverse=True)[1]
        return np.eye(int(codes.max()) + 1)[codes][:, 1:]


def abundance_effects(
    ratios: NDArray[np.float64],
    shares: NDArray[np.float64],
    condition: NDArray[np.int64],
    conditions: Sequence[str],
    items: Sequence[str],
    covariates: Mapping[str, Covariate],
) -> pd.DataFrame:
    """Test which types or components are more or less frequent in each condition than in the first one.

    The model is that of LinDA (Zhou et al. 2022): least squares of the centered log-ratios of samples on conditions and
    covariates. A type that becomes more frequent lowers the log-ratios of all others alike, so the median of the
    effects over the types is subtracted from them: most types are taken not to change.

    - `ratios`, `shares`: (P, T) centered log-ratios and shares.
    - `condition`: (P,) codes.
    - `conditions`, `items`: Names of the C conditions and of the T types.
    - `covariates`: Name -> covariate.

    Returns one row per type and condition but the first, with ``effect`` (natural logarithm of the fold change of the
    type against most others), ``se``, ``t``, ``p`` and ``q`` (of Benjamini and Hochberg over all rows). Raises
    ValueError if the conditions cannot be distinguished from the covariates, or no degree of freedom is left.
    """
    present = np.unique(condition)
    names = [conditions[code] for code in present]
    contrasts, design = design_columns(condition, names, covariates)
    rank = int(np.linalg.matrix_rank(design))
    inverse = np.linalg.pinv(design)
    coefficient = inverse @ ratios
    residual = ratios - design @ coefficient
    freedom = len(design) - rank
    variance = np.square(residual).sum(axis=0) / freedom
    n_contrasts = contrasts.shape[1]
    effect = coefficient[:n_contrasts] - np.median(coefficient[:n_contrasts], axis=1, keepdims=True)
    error = np.sqrt(np.square(inverse[:n_contrasts]).sum(axis=1)[:, None] * variance)
    # types that do not vary at all have no effect either
    statistic = np.divide(effect, error, out=np.zeros_like(effect), where=error > 0)
    p = 2 * student.sf(np.abs(statistic), freedom)
    mean = np.stack([shares[condition == code].mean(axis=0) for code in present])
    table = pd.DataFrame(
        {
            "condition": np.repeat(names[1:], len(items)),
            "reference": names[0],
            "mean_share": mean[1:].ravel(),
            "reference_share": np.tile(mean[0], n_contrasts),
            "effect": effect.ravel(),
            "se": error.ravel(),
            "t": statistic.ravel(),
            "p": p.ravel(),
            "q": false_discovery_control(p.ravel()),
        },
        index=pd.Index(list(items) * n_contrasts, name="item"),
    )
    return table


def design_columns(
    condition: NDArray[np.int64], names: Sequence[str], covariates: Mapping[str, Covariate]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Indicators (P, C - 1) of the conditions but the first, and the design: these, a constant, and the covariates.

    Raises ValueError as :func:`abundance_effects`.
    """
    contrasts = (condition[:, None] == np.unique(condition)[1:]).astype(np.float64)
    nuisance = np.hstack([np.ones((len(condition), 1)), *(covariate.columns() for covariate in covariates.values())])
    _check_design(contrasts, nuisance, names, list(covariates))
    return contrasts, np.hstack([contrasts, nuisance])


def _check_design(
    contrasts: NDArray[np.float64], nuisance: NDArray[np.float64], names: Sequence[str], covariates: Sequence[str]
) -> None:
    """Raise a ValueError unless each condition differs from the first beyond what the covariates say."""
    total = int(np.linalg.matrix_rank(np.hstack([contrasts, nuisance])))
    if total < np.linalg.matrix_rank(nuisance) + contrasts.shape[1]:
        raise ValueError(
            f"covariate_keys={list(covariates)} cannot be distinguished from the conditions {list(names)}: the "
            "covariates predict the condition of every sample. Leave the covariate out, or add samples in which they "
            "differ."
        )
    if total >= len(contrasts):
        raise ValueError(
            f"{len(contrasts)} samples are too few for {total} columns of conditions and covariates: a test needs more "
            "samples than columns."
        )
