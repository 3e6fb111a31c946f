"""Differential state: components whose mean or covariance moves between conditions; samples are the replicates.

Symbols: P samples, M groups of matched components, d dimensions, C conditions, q columns of covariates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from muport.gmm.interpretation._condition_effects import compare_groups, permute_conditions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.interpretation._component_groups import ComponentGroups
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["merge_groups", "state_coordinates", "state_effects"]

_MIN_EIGENVALUE = 1e-9


def state_effects(
    mixtures: Mixtures,
    groups: ComponentGroups,
    condition: NDArray[np.int64],
    items: Sequence[str],
    *,
    columns: NDArray[np.float64] | None = None,
    strata: NDArray[np.int64] | None = None,
    n_permutations: int = 999,
    random_state: int = 0,
) -> pd.DataFrame:
    r"""Test which matched components move between conditions, in their mean, in their covariance, or in both.

    After whitening by the barycenter of a component, whose covariance becomes the identity, a sample with mean m and
    covariance S has the coordinates (m, S^{1/2} - I): their squared norm is the squared Wasserstein distance from the
    barycenter, |m|^2 + tr(S + I - 2 S^{1/2}). The statistic is the sum of squares between conditions of these
    coordinates; conditions are permuted, so samples, not cells, are the replicates.

    - `mixtures`, `groups`: Mixtures of P samples, and their matched components.
    - `condition`: (P,) codes 0..C-1.
    - `items`: Names of the M groups.
    - `columns`: (P, q) covariates: the coordinates are residuals of a regression on them.
    - `strata`: (P,) codes; conditions are permuted within strata.

    Returns one row per group: ``n_samples`` that have it; ``shift``, the largest Wasserstein distance between the mean
    coordinates of two conditions, in standard deviations of its cells, with ``p`` and ``q`` of Benjamini and Hochberg
    over the groups; and the same of the mean (``mean_``) and of the covariance (``covariance_``) alone.
    """
    mean, root, present = state_coordinates(mixtures, groups)
    labels = permute_conditions(np.unique(condition, return_inverse=True)[1], n_permutations, random_state, strata)
    parts = {"": np.concatenate([mean, root], axis=2), "mean_": mean, "covariance_": root}
    table = pd.DataFrame({"n_samples": present.sum(axis=0)}, index=pd.Index(items, name="item"))
    for name, values in parts.items():
        y = values if columns is None else _residuals(values, present, columns)
        shift, _, p = compare_groups(y, present, labels)
        table[f"{name}shift"], table[f"{name}p"], table[f"{name}q"] = shift, p, false_discovery_control(p)
    return table


def state_coordinates(
    mixtures: Mixtures, groups: ComponentGroups
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(P, M, d) means and (P, M, d d) roots of covariances less I, whitened; (P, M) which groups a sample has."""
    present = groups.shares > 0
    mean, covariance = merge_groups(mixtures, groups, present)
    values, vectors = np.linalg.eigh(groups.covariances)
    scale = np.sqrt(np.maximum(values, _MIN_EIGENVALUE * values[:, -1:] + 1e-300))
    whitener = vectors / scale[:, None]
    white = np.einsum("pmi,mij->pmj", mean - groups.means, whitener)
    inner = whitener.swapaxes(1, 2) @ covariance @ whitener
    squares, axes = np.linalg.eigh((inner + inner.swapaxes(2, 3)) / 2)
    root = (axes * np.sqrt(np.maximum(squares, 0))[:, :, None]) @ axes.swapaxes(2, 3) - np.eye(mean.shape[2])
    inside = present[..., None]
    return np.where(inside, white, 0.0), np.where(inside, root.reshape(*present.shape, -1), 0.0), present


def merge_groups(
    mixtures: Mixtures, groups: ComponentGroups, present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (P, M, d) and covariance (P, M, d, d) of all components of a sample that are in one group."""
    p, m = present.shape
    d = mixtures.means.shape[2]
    rows, columns = (groups.group >= 0).nonzero()
    group = groups.group[rows, columns]
    weight = mixtures.weights[rows, columns]
    share = np.where(present, groups.shares, 1.0)
    mean, second = np.zeros((p, m, d)), np.zeros((p, m, d, d))
    # relative to the barycenter, against cancellation far from 0
    offset = mixtures.means[rows, columns] - groups.means[group]
    np.add.at(mean, (rows, group), weight[:, None] * offset)
    squares = mixtures.full()[rows, columns] + offset[:, :, None] * offset[:, None]
    np.add.at(second, (rows, group), weight[:, None, None] * squares)
    mean /= share[..., None]
    covariance = second / share[..., None, None] - mean[..., None] * mean[..., None, :]
    return mean + groups.means, covariance


def _residuals(y: NDArray[np.float64], present: NDArray[np.bool_], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residuals (P, M, r) of a regression on covariates, for each group among the samples that have it."""
    design = np.hstack([np.ones((len(columns), 1)), columns])
    out = np.zeros_like(y)
    for group in range(y.shape[1]):
        rows = present[:, group]
        out[rows, group] = y[rows, group] - design[rows] @ (np.linalg.pinv(design[rows]) @ y[rows, group])
    return out
