"""The effect of covariates on patients, removed from the distances between them.

Symbols: P training patients, Q new patients, q columns of covariates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CovariateCode", "explained_fraction", "remove_covariates"]


@dataclass(frozen=True, eq=False)
class CovariateCode:
    """How a covariate of samples becomes columns of a design: numbers are standardized, levels have indicators.

    - `key`: Name of the column of the cells.
    - `levels`: Names of the levels; none for numbers.
    - `means`: Mean of each column in the training patients: of all levels but the first, or of the number.
    - `scale`: Standard deviation of the numbers.
    """

    key: str
    levels: tuple[str, ...]
    means: Annotated[NDArray[np.float64], "*"]
    scale: Annotated[float, "0.."]

    @classmethod
    def fit(cls, key: str, values: NDArray[np.float64], levels: tuple[str, ...]) -> CovariateCode:
        """Code the numbers (P,) of training patients, or their positions in `levels`."""
        if not levels:
            return cls(key, levels, np.array([values.mean()]), float(values.std()) or 1.0)
        return cls(key, levels, np.eye(len(levels))[values.astype(np.int64), 1:].mean(axis=0), 1.0)

    def columns(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns (P, n) of patients; one whose level is not known (-1) is like the mean of the training patients."""
        if not self.levels:
            return (values[:, None] - self.means) / self.scale
        rows = np.vstack([np.eye(len(self.levels))[:, 1:] - self.means, np.zeros((1, len(self.levels) - 1))])
        return rows[values.astype(np.int64)]


def remove_covariates(
    train: NDArray[np.float64], new: NDArray[np.float64], columns: NDArray[np.float64], new_columns: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Compute squared distances of patients whose coordinates are residuals of a regression on covariates.

    The coordinates are those that have the given distances; they need not be known. With C the covariates of the
    training patients and a constant, H = C C^+ and K = -D / 2, the kernel of the residuals is (I - H) K (I - H), and
    that of new patients, whose covariates are c, is (k - c C^+ K)(I - H). The regression is that of the training
    patients.

    - `train`, `new`: (..., P, P) and (..., Q, P) squared distances D.
    - `columns`, `new_columns`: (..., P, q) and (..., Q, q) covariates.

    Returns distances among the training patients; and from new ones to them, up to a constant for each new patient.
    """
    constant, new_constant = (np.ones((*x.shape[:-1], 1)) for x in (columns, new_columns))
    design = np.concatenate([constant, columns], axis=-1)
    inverse = np.linalg.pinv(design)
    project = np.eye(design.shape[-2]) - design @ inverse
    hat = np.concatenate([new_constant, new_columns], axis=-1) @ inverse
    kernel = project @ (-0.5 * train) @ project
    new_kernel = (-0.5 * new - hat @ (-0.5 * train)) @ project
    own = np.diagonal(kernel, axis1=-2, axis2=-1)[..., None, :]
    squared = np.maximum(own + own.swapaxes(-1, -2) - 2 * kernel, 0)
    to_train: NDArray[np.float64] = own - 2 * new_kernel
    return squared, to_train


def explained_fraction(target: NDArray[np.float64], columns: NDArray[np.float64]) -> tuple[float, float]:
    """Fraction of the variance of targets (P, T) that covariates (P, q) explain: as it is, and corrected for chance."""
    design = np.hstack([np.ones((len(columns), 1)), columns])
    centered = target - target.mean(axis=0)
    residual = target - design @ (np.linalg.pinv(design) @ target)
    total = float(np.square(centered).sum())
    explained = 1 - float(np.square(residual).sum()) / total if total > 0 else 0.0
    freedom = len(target) - int(np.linalg.matrix_rank(design))
    corrected = 1 - (1 - explained) * (len(target) - 1) / freedom if freedom > 0 else 1.0
    return explained, max(corrected, 0.0)
