"""Types that labels teach: a classifier in the integrated space, how far to trust it, and what sets types apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.integration._fitted_state import Types
from muport.integration.labels._label_transfer import held_out_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_types", "spread_types"]

_CELLS = 10_000  # that teach the classifier
_SURE = 3.0  # standard errors by which a type must be predictable beyond chance
_RADII = 8.0  # distance of neighbouring types at full supervision, in radii
_TINY = 1e-12


def fit_types(z: NDArray[np.float32], code: NDArray[np.int64], seed: int) -> tuple[Types, NDArray[np.float64]]:
    """Classifier of the types, and how predictable each is from cells that it was not taught by.

    The weight of type c is twice Tjur's coefficient of discrimination, less 3 standard errors, within 0..1::

        r_c = E[p(c) | c] - E[p(c) | not c],   p(c) of held-out labelled cells

    As p itself is calibrated, a type that is half predictable needs no more caution. Labels that
    the cells do not bear out (noise, or too few) have no part in anything.

    Parameters
    ----------
    z
        (n, d) cells after the transport, standardised.
    code
        (n,) labels, -1 where unknown; at least one is known.
    seed
        Seed of the choice of the cells that teach.

    Returns
    -------
    The types, not yet spread, and (C,) weights in 0..1.
    """
    rows = _teaching(code, seed)
    weights, p, truth = held_out_classifier(z[rows], code[rows], int(code.max()) + 1, seed)
    return Types(weights, np.zeros((p.shape[1], z.shape[1]), np.float32)), _predictable(p, truth)


def _teaching(code: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All rows, or some labelled ones and some others: no more than half of either if there is enough of both."""
    if len(code) <= _CELLS:
        return np.arange(len(code))
    rng = np.random.default_rng(seed)
    known, unknown = np.flatnonzero(code >= 0), np.flatnonzero(code < 0)
    number = min(len(known), max(_CELLS // 2, _CELLS - len(unknown)))
    parts = (rng.choice(known, number, replace=False), rng.choice(unknown, min(len(unknown), _CELLS - number), False))
    return np.sort(np.concatenate(parts))


def _predictable(p: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) Tjur's coefficients less their uncertainty; means have half a cell of doubt each."""
    own = np.eye(p.shape[1])[truth]
    count = np.stack([own.sum(axis=0), len(own) - own.sum(axis=0)])
    inside = ((own * p).sum(axis=0) + 0.5) / (count[0] + 1)
    outside = (((1 - own) * p).sum(axis=0) + 0.5) / (count[1] + 1)
    error = np.sqrt(inside * (1 - inside) / (count[0] + 1) + outside * (1 - outside) / (count[1] + 1))
    weight: NDArray[np.float64] = np.where(
        count.min(axis=0) > 0, np.clip(2 * (inside - outside - _SURE * error), 0, 1), 0
    )
    return weight


def spread_types(
    y: NDArray[np.float32], p: NDArray[np.float32], weight: NDArray[np.float64], supervision: float
) -> NDArray[np.float32]:
    """(C, d) displacement of every type, by which those that lie close come apart; nothing within a type changes.

    With M the types' means and U S V' its singular value decomposition, type c goes m_c along row c of U V', the
    orthonormal frame nearest to the means; m_c is what its distance D_c to the nearest other type lacks::

        m_c^2 = max(0, (R rho)^2 - D_c^2) / 2,   R = 8 supervision

    in radii rho, the root mean square distance of cells to the mean of their type.

    Parameters
    ----------
    y
        (n, d) integrated cells.
    p
        (n, C) probabilities of their types.
    weight
        (C,) how predictable each type is.
    supervision
        The hyperparameter.
    """
    chosen = np.flatnonzero(weight > 0)
    out = np.zeros((p.shape[1], y.shape[1]), np.float32)
    if len(chosen) < 2:
        return out
    share = p[:, chosen]
    count = np.maximum(share.sum(axis=0, dtype=np.float64), _TINY)
    mean = (share.T @ y) / count[:, None]
    radius = max(float((share.T @ np.square(y).sum(axis=1)).sum() - (count * np.square(mean).sum(axis=1)).sum()), 0)
    radius = float(np.sqrt(radius / count.sum()))
    apart = np.linalg.norm(mean[:, None] - mean[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    lacking = np.sqrt(np.maximum(np.square(_RADII * supervision * radius) - np.square(apart.min(axis=1)), 0) / 2)
    out[chosen] = (weight[chosen] * lacking)[:, None] * _frame(mean - mean.mean(axis=0))
    return out


def _frame(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of the orthonormal frame nearest to those of `mean`: its polar factor, on the directions it spans."""
    left, size, right = np.linalg.svd(mean, full_matrices=False)
    held = size > 1e-6 * max(size[0], _TINY)
    frame: NDArray[np.float64] = left[:, held] @ right[held]
    return frame
