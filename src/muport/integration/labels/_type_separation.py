"""Supervision by labels: a classifier of the types in the integrated space, and shifts that separate close types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import Types
from muport.integration.labels._label_transfer import cross_validate_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_types", "separate_types"]

_MAX_CELLS = 10_000  # cells on which the classifier is fitted
_STANDARD_ERRORS = 3.0  # by which a type must be more predictable than by chance
_RADII = 4.0  # distance of neighboring types at full supervision, in radii
_TINY = 1e-12


def fit_types(z: NDArray[np.float32], code: NDArray[np.int64], seed: int) -> tuple[Types, NDArray[np.float64]]:
    """Fit a classifier of the types, and measure how well it predicts each type in held-out cells.

    The weight of type c is twice Tjur's coefficient of discrimination, less 3 standard errors, clipped to 0..1::

        r_c = E[p(c) | c] - E[p(c) | not c],   p(c) of held-out labeled cells

    As p is calibrated, a type that is half predictable needs no more caution. Labels that the cells do not support,
    because they are noise or too few, get weight 0.

    - `z`: (n, d) cells after the transport, standardized.
    - `code`: (n,) labels, -1 where unknown; at least one is known.

    Returns the types, without shifts, and (C,) weights in 0..1.
    """
    rows = _sample_cells(code, seed)
    weights, p, truth = cross_validate_classifier(z[rows], code[rows], int(code.max()) + 1, seed)
    return Types(weights, np.zeros((p.shape[1], z.shape[1]), np.float32)), _compute_predictability(p, truth)


def _sample_cells(code: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return all rows, or a sample: half of it labeled if there are enough labeled and unlabeled rows."""
    if len(code) <= _MAX_CELLS:
        return np.arange(len(code))
    rng = np.random.default_rng(seed)
    labeled, unlabeled = np.flatnonzero(code >= 0), np.flatnonzero(code < 0)
    n_labeled = min(len(labeled), max(_MAX_CELLS // 2, _MAX_CELLS - len(unlabeled)))
    n_unlabeled = min(len(unlabeled), _MAX_CELLS - n_labeled)
    parts = (rng.choice(labeled, n_labeled, replace=False), rng.choice(unlabeled, n_unlabeled, replace=False))
    return np.sort(np.concatenate(parts))


def _compute_predictability(p: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute twice Tjur's coefficient (C,) less its uncertainty, clipped to 0..1.

    Half a cell with p(c) = 1 and half a cell with p(c) = 0 are added to each mean.
    """
    own = np.eye(p.shape[1])[truth]
    n_cells = np.stack([own.sum(axis=0), len(own) - own.sum(axis=0)])
    inside = ((own * p).sum(axis=0) + 0.5) / (n_cells[0] + 1)
    outside = (((1 - own) * p).sum(axis=0) + 0.5) / (n_cells[1] + 1)
    error = np.sqrt(inside * (1 - inside) / (n_cells[0] + 1) + outside * (1 - outside) / (n_cells[1] + 1))
    weight: NDArray[np.float64] = np.where(
        n_cells.min(axis=0) > 0, np.clip(2 * (inside - outside - _STANDARD_ERRORS * error), 0, 1), 0
    )
    return weight


def separate_types(
    y: NDArray[np.float32], p: NDArray[np.float32], weight: NDArray[np.float64], supervision: float
) -> NDArray[np.float32]:
    """Compute a shift (C, d) of each type that separates types which are close; nothing changes within a type.

    With M the means of the types and U S V' its singular value decomposition, type c moves by m_c along row c of U V',
    the orthonormal frame nearest to the means. With D_c its distance to the nearest other type::

        m_c^2 = max(0, (R rho)^2 - D_c^2) / 2,   R = 4 supervision

    where the radius rho is the root mean square distance of cells to the mean of their type.

    - `y`: (n, d) integrated cells.
    - `p`: (n, C) probabilities of their types.
    - `weight`: (C,) how predictable each type is, 0..1.
    """
    predictable = np.flatnonzero(weight > 0)
    shift = np.zeros((p.shape[1], y.shape[1]), np.float32)
    if len(predictable) < 2:
        return shift
    membership = p[:, predictable]
    n_cells = np.maximum(membership.sum(axis=0, dtype=np.float64), _TINY)
    mean = (membership.T @ y) / n_cells[:, None]
    total = float((membership.T @ np.square(y).sum(axis=1)).sum() - (n_cells * np.square(mean).sum(axis=1)).sum())
    radius = float(np.sqrt(max(total, 0) / n_cells.sum()))
    distance = np.linalg.norm(mean[:, None] - mean[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    length = np.sqrt(np.maximum(np.square(_RADII * supervision * radius) - np.square(distance.min(axis=1)), 0) / 2)
    shift[predictable] = (weight[predictable] * length)[:, None] * _fit_frame(mean - mean.mean(axis=0))
    return shift


def _fit_frame(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the orthonormal frame nearest to the rows of `mean`: its polar factor, on the span of the rows."""
    left, size, right = np.linalg.svd(mean, full_matrices=False)
    spanned = size > 1e-6 * max(size[0], _TINY)
    frame: NDArray[np.float64] = left[:, spanned] @ right[spanned]
    return frame
