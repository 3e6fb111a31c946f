"""Tests of matched components between conditions: their means, and their fractions of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.interpretation._component_groups import ComponentGroups
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["condition_effects"]


def condition_effects(
    mixtures: Mixtures,
    groups: ComponentGroups,
    condition: ArrayLike,
    *,
    n_permutations: int = 999,
    random_state: int = 0,
    strata: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Test which matched components differ between conditions, in their mean or in their fraction of cells.

    State: the mean of a patient's group, in standard deviations of the group's cells (whitened by the covariance of
    the barycenter). Composition: the square root of its fraction (Hellinger). The statistic is the sum of squares
    between conditions. Conditions of patients are permuted, so patients, not cells, are the samples.

    - `mixtures`: Mixtures of P patients.
    - `groups`: Their matched components.
    - `condition`: (P,) codes 0..C-1.
    - `n_permutations`: Number of permutations; the smallest p-value is 1 / (`n_permutations` + 1).
    - `random_state`: Seed of the permutations.
    - `strata`: (P,) codes; conditions are permuted within strata.

    Returns one row per group. ``n_patients``: number of patients that have it. ``state_shift``: largest distance
    between the means of two conditions, in standard deviations of its cells. ``state_effect``: fraction of the variance
    between patients that the condition explains, corrected for chance, 0 to 1. ``state_p``, ``state_q``: p-value, and
    q-value of Benjamini and Hochberg over the groups. ``share_shift``: largest difference of the mean fractions of two
    conditions. ``share_effect``, ``share_p``, ``share_q``: as for the state. Raises ValueError if there are fewer than
    two conditions, or not one for each patient.
    """
    codes = _check_condition(condition, len(mixtures))
    position, present = _whitened_means(mixtures, groups)
    n = np.bincount(codes)
    labels = permute_conditions(codes, n_permutations, random_state, strata)
    state_shift, state_effect, state_p = compare_groups(position, present, labels)
    root = np.sqrt(groups.shares)[:, :, None]
    _, share_effect, share_p = compare_groups(root, np.ones(root.shape[:2], dtype=bool), labels)
    mean_share = labels[0].T @ groups.shares / n[:, None]
    return pd.DataFrame(
        {
            "n_patients": present.sum(axis=0),
            "state_shift": state_shift,
            "state_effect": state_effect,
            "state_p": state_p,
            "state_q": false_discovery_control(state_p),
            "share_shift": np.ptp(mean_share, axis=0),
            "share_effect": share_effect,
            "share_p": share_p,
            "share_q": false_discovery_control(share_p),
        }
    )


def permute_conditions(
    condition: NDArray[np.int64], n_permutations: int, random_state: int, strata: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Indicators (B, P, C) of the conditions (P,), real ones and then permuted ones, within strata (P,) if given."""
    permuted, rng = np.tile(condition, (n_permutations, 1)), np.random.default_rng(random_state)
    for rows in [slice(None)] if strata is None else [strata == code for code in np.unique(strata)]:
        permuted[:, rows] = rng.permuted(permuted[:, rows], axis=1)
    indicators: NDArray[np.float64] = np.eye(int(condition.max()) + 1)[np.vstack([condition[None], permuted])]
    return indicators


def _check_condition(condition: ArrayLike, n_patients: int) -> NDArray[np.int64]:
    codes = np.asarray(condition)
    if codes.shape != (n_patients,) or codes.dtype.kind not in "iu":
        raise ValueError(f"condition must be an integer code for each of the {n_patients} patients.")
    present, inverse = np.unique(codes, return_inverse=True)
    if len(present) < 2:
        raise ValueError("condition is the same for all patients: nothing can differ.")
    return inverse.astype(np.int64)


def _whitened_means(
    mixtures: Mixtures, groups: ComponentGroups
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:  # fmt: skip
    """(P, M, d) whitened means of each patient's groups, 0 for absent ones; (P, M) which groups are present."""
    p, m = groups.shares.shape
    summed = np.zeros((p, m, mixtures.means.shape[2]))
    rows, columns = (groups.group >= 0).nonzero()
    group = groups.group[rows, columns]
    np.add.at(summed, (rows, group), mixtures.weights[rows, columns, None] * mixtures.means[rows, columns])
    present = groups.shares > 0
    # relative to the barycenter, against cancellation far from 0
    offset = summed / np.where(present, groups.shares, 1)[..., None] - groups.means
    values, vectors = np.linalg.eigh(groups.covariances)
    scale = np.sqrt(np.maximum(values, 1e-9 * values[:, -1:] + 1e-300))
    white = np.einsum("pmi,mij->pmj", offset, vectors) / scale
    return np.where(present[..., None], white, 0.0), present


def compare_groups(
    y: NDArray[np.float64], present: NDArray[np.bool_], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shift, corrected effect and permutation p-value (M,) of y (P, M, r) by labels (B, P, C), the first the real ones.

    With centered y, the sum of squares between conditions is sum_c |sum_i l_ic y_i|^2 / n_c.
    """
    mask = present.astype(np.float64)
    count = mask.sum(axis=0)
    centered = (y - (y.sum(axis=0) / np.maximum(count, 1)[:, None])) * mask[..., None]
    size = np.einsum("bpc,pm->bcm", labels, mask)
    summed = np.einsum("bpc,pmj->bcmj", labels, centered, optimize=True)
    between = ((summed**2).sum(axis=3) / np.maximum(size, 1)).sum(axis=1)
    total = (centered**2).sum(axis=(0, 2))
    exceeds = between[1:] >= between[0] * (1 - 1e-9)
    p_value = (1 + exceeds.sum(axis=0)) / len(labels)
    explained = between[0] / np.where(total > 0, total, 1)
    has_patients = size[0] > 0
    residual_freedom = count - has_patients.sum(axis=0)
    # adjusted R^2
    adjusted = 1 - (1 - explained) * (count - 1) / np.maximum(residual_freedom, 1)
    effect = np.where(residual_freedom > 0, adjusted, 0.0)
    mean = summed[0] / np.maximum(size[0], 1)[..., None]
    distance = np.linalg.norm(mean[:, None] - mean[None], axis=-1) * (has_patients[:, None] & has_patients[None])
    return distance.max(axis=(0, 1)), np.where(total > 0, np.clip(effect, 0, 1), 0.0), p_value
