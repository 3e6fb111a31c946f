"""What a learnt metric and the patients' components mean: features, cell types, and what differs by condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.interpretation._component_groups import ComponentGroups
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = [
    "ComponentTypes",
    "axis_loadings",
    "component_shifts",
    "component_types",
    "condition_effects",
    "group_responsibilities",
    "rank_features",
]


def axis_loadings(w: ArrayLike, loadings: ArrayLike) -> NDArray[np.float64]:
    """Weight of each feature on each learnt axis: where the representation is z = V' x, an axis is W z = (V W')' x.

    Parameters
    ----------
    w
        (r, d) metric.
    loadings
        (g, d) loadings V of the representation on the features, such as ``adata.varm["PCs"]``.

    Returns
    -------
    NDArray
        (g, r).

    Raises
    ------
    ValueError
        If the dimensions differ, or an entry is not finite.

    Examples
    --------
    >>> axis_loadings([[0.0, 2.0]], [[1.0, 0.0], [0.0, 0.5]]).tolist()
    [[0.0], [1.0]]
    """
    metric, matrix = np.asarray(w, dtype=np.float64), np.asarray(loadings, dtype=np.float64)
    if metric.ndim != 2 or matrix.ndim != 2 or metric.shape[1] != matrix.shape[1]:
        raise ValueError(f"w {metric.shape} and loadings {matrix.shape} must be (axes, d) and (features, d).")
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise ValueError(f"loadings have NaN or infinite entries for {int(bad.sum())} features: leave these out.")
    return matrix @ metric.T


def rank_features(
    scores: ArrayLike,
    features: Sequence[str],
    names: Sequence[str] | None = None,
    *,
    n: int | None = None,
    by: Literal["magnitude", "up", "down"] = "magnitude",
) -> pd.DataFrame:
    """Rank features for each axis or component.

    Parameters
    ----------
    scores
        (g, r) scores of g features; see :func:`axis_loadings` and :func:`component_shifts`.
    features
        (g,) names of the features.
    names
        (r,) names of the axes or components; 0, 1, ... by default.
    n
        Features kept for each; all by default.
    by
        ``"magnitude"`` of the score, or from the highest (``"up"``) or lowest (``"down"``) on.

    Returns
    -------
    pandas.DataFrame
        ``item``, ``rank`` (from 1), ``feature`` and ``score``, item by item. Equal scores keep the features' order.

    Raises
    ------
    ValueError
        If shapes do not fit or `by` is unknown.

    Examples
    --------
    >>> rank_features([[0.1], [-3.0], [2.0]], ["A", "B", "C"], n=2)["feature"].tolist()
    ['B', 'C']
    """
    matrix = np.asarray(scores, dtype=np.float64)
    keys = {"magnitude": np.abs, "up": np.positive, "down": np.negative}
    if by not in keys:
        raise ValueError(f"by={by!r}: must be one of {list(keys)}.")
    if matrix.ndim != 2 or len(matrix) != len(features):
        raise ValueError(f"scores of shape {matrix.shape} do not fit {len(features)} features: one row each is needed.")
    items = [str(name) for name in (range(matrix.shape[1]) if names is None else names)]
    if len(items) != matrix.shape[1]:
        raise ValueError(f"names has {len(items)} entries for {matrix.shape[1]} columns of scores.")
    order = np.argsort(-keys[by](matrix), axis=0, kind="stable")[:n]
    kept = len(order)
    return pd.DataFrame(
        {
            "item": np.repeat(items, kept),
            "rank": np.tile(np.arange(1, kept + 1), len(items)),
            "feature": np.asarray(features)[order.T.ravel()],
            "score": np.take_along_axis(matrix, order, axis=0).T.ravel(),
        }
    )


def component_shifts(
    means: ArrayLike, mass: ArrayLike, *, reference: Literal["rest", "global"] = "rest", w: ArrayLike | None = None
) -> NDArray[np.float64]:
    """How far each component's mean lies from the others'.

    Multiplied with the loadings (g, d), the transpose is (g, M) scores for :func:`rank_features`.

    Parameters
    ----------
    means
        (M, d) means, such as those of :class:`ComponentGroups`.
    mass
        (M,) masses, such as the mean shares.
    reference
        ``"rest"``: the mean of all other components; ``"global"``: of all.
    w
        (r, d) metric: only what lies in its row space counts, W+ W (m_k - m).

    Returns
    -------
    NDArray
        (M, d); 0 for an only component, and where all others have no mass.

    Raises
    ------
    ValueError
        If shapes do not fit or `reference` is unknown.

    Examples
    --------
    >>> component_shifts([[0.0], [2.0], [4.0]], [1.0, 1.0, 2.0]).round(3).tolist()
    [[-3.333], [-0.667], [3.0]]
    """
    mean, weight = np.asarray(means, dtype=np.float64), np.asarray(mass, dtype=np.float64)
    if mean.ndim != 2 or weight.shape != mean.shape[:1]:
        raise ValueError(f"means {mean.shape} and mass {weight.shape} must be (M, d) and (M,).")
    if reference not in ("rest", "global"):
        raise ValueError(f"reference={reference!r}: must be 'rest' or 'global'.")
    total = weight.sum()
    shift = mean - weight @ mean / total
    if reference == "rest":
        # m_k - (T m - p_k m_k) / (T - p_k) = (m_k - m) T / (T - p_k)
        rest = total - weight
        alone = rest <= 1e-12 * total
        shift = np.where(alone[:, None], 0.0, shift * (total / np.where(alone, 1.0, rest))[:, None])
    if w is not None:
        metric = np.asarray(w, dtype=np.float64)
        shift = shift @ metric.T @ np.linalg.pinv(metric).T
    return shift


@dataclass(frozen=True, eq=False)
class ComponentTypes:
    """Components against cell types.

    Attributes
    ----------
    share
        (M components x T types) table; rows sum to 1: who the cells of a component are. 0 without cells.
    mass
        (M,) cells of each component, by responsibility.
    purity
        (M,) largest share.
    entropy
        (M,) entropy of the shares, in units of that of T equal shares: 0 pure, 1 evenly mixed.
    """

    share: pd.DataFrame
    mass: NDArray[np.float64]
    purity: NDArray[np.float64]
    entropy: NDArray[np.float64]


def component_types(responsibilities: ArrayLike, labels: ArrayLike) -> ComponentTypes:
    """Count the cell types of each component, every cell by its responsibilities.

    Parameters
    ----------
    responsibilities
        (n, M), rows sum to 1.
    labels
        (n,) cell types; cells without one (None, NaN) are left out.

    Returns
    -------
    ComponentTypes

    Raises
    ------
    ValueError
        If the lengths differ or no cell has a type.

    Examples
    --------
    >>> component_types([[1.0, 0.0], [0.5, 0.5]], ["B", "T"]).share.round(2).to_dict("list")
    {'B': [0.67, 0.0], 'T': [0.33, 1.0]}
    """
    r, kinds = np.asarray(responsibilities, dtype=np.float64), pd.Categorical(np.asarray(labels))
    if r.ndim != 2 or len(r) != len(kinds):
        raise ValueError(f"responsibilities {r.shape} and {len(kinds)} labels must have one row for each cell.")
    known = np.asarray(kinds.codes) >= 0
    if not known.any():
        raise ValueError("labels: no cell has a type.")
    counts = np.zeros((len(kinds.categories), r.shape[1]))
    np.add.at(counts, np.asarray(kinds.codes)[known], r[known])
    mass = counts.sum(axis=0)
    share = (counts / np.where(mass > 0, mass, 1)).T
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1) / np.log(max(len(counts), 2))
    table = pd.DataFrame(share, columns=kinds.categories)
    return ComponentTypes(table, mass, share.max(axis=1), np.abs(entropy))


def group_responsibilities(
    responsibilities: ArrayLike, sample: ArrayLike, groups: ComponentGroups
) -> NDArray[np.float64]:
    """Sum each cell's responsibilities over the components of its patient that are of one group.

    Parameters
    ----------
    responsibilities
        (n, K) for the components of the cell's own patient.
    sample
        (n,) patient of each cell, a row of ``groups.group``.
    groups
        Matched components.

    Returns
    -------
    NDArray
        (n, M), rows sum to 1.
    """
    r, of = np.asarray(responsibilities, dtype=np.float64), groups.group[np.asarray(sample)]
    out = np.zeros((len(r), len(groups)))
    rows, columns = (of >= 0).nonzero()
    np.add.at(out, (rows, of[rows, columns]), r[rows, columns])
    return out


def condition_effects(
    mixtures: Mixtures,
    groups: ComponentGroups,
    condition: ArrayLike,
    *,
    w: ArrayLike | None = None,
    n_permutations: int = 999,
    random_state: int = 0,
) -> pd.DataFrame:
    """Test which matched components move, and which change their share, between conditions.

    State: a patient's mean of the group, in standard deviations of the group's cells (whitened by the barycentre's
    covariance). Composition: the root of its share (Hellinger). The statistic is the sum of squares between
    conditions, its chance that of permuted patients, so patients - not cells - are the sample.

    Parameters
    ----------
    mixtures
        Mixtures of P patients.
    groups
        Their components, matched.
    condition
        (P,) codes 0..C-1.
    w
        (r, d) metric: look only along its axes. A metric learnt from the same conditions makes the chances of the
        state too small; leave it out for a test.
    n_permutations
        Permutations; the smallest chance is 1 / (`n_permutations` + 1).
    random_state
        Seed of the permutations.

    Returns
    -------
    pandas.DataFrame
        One row for each group. ``n_patients`` that have it; ``state_shift``: largest distance between the means of
        two conditions, in standard deviations of its cells; ``state_effect``: share of the variance between patients
        that the condition explains, corrected for chance, 0 to 1; ``state_p``, ``state_q`` (Benjamini-Hochberg over
        the groups); ``share_shift``: largest difference of two mean shares; ``share_effect``, ``share_p``, ``share_q``.

    Raises
    ------
    ValueError
        If there are fewer than two conditions, or not one for each patient.
    """
    codes = _codes(condition, len(mixtures))
    position, present = _positions(mixtures, groups, w)
    n = np.bincount(codes)
    order = np.random.default_rng(random_state).permuted(np.tile(codes, (n_permutations, 1)), axis=1)
    labels = np.eye(len(n))[np.vstack([codes[None], order])]
    state = _analyse(position, present, labels)
    root = np.sqrt(groups.shares)[:, :, None]
    share = _analyse(root, np.ones(root.shape[:2], dtype=bool), labels)
    mean_share = labels[0].T @ groups.shares / n[:, None]
    table = {"n_patients": present.sum(axis=0), "state_shift": state[0], "state_effect": state[1], "state_p": state[2],
             "state_q": false_discovery_control(state[2]), "share_shift": np.ptp(mean_share, axis=0),
             "share_effect": share[1], "share_p": share[2], "share_q": false_discovery_control(share[2])}  # fmt: skip
    return pd.DataFrame(table)


def _codes(condition: ArrayLike, n_patients: int) -> NDArray[np.int64]:
    codes = np.asarray(condition)
    if codes.shape != (n_patients,) or codes.dtype.kind not in "iu":
        raise ValueError(f"condition must hold an integer code for each of the {n_patients} patients.")
    names, found = np.unique(codes, return_inverse=True)
    if len(names) < 2:
        raise ValueError("condition is the same for all patients: nothing can differ.")
    return found.astype(np.int64)


def _positions(
    mixtures: Mixtures, groups: ComponentGroups, w: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(P, M, r) whitened means of each patient's groups, 0 where it has none; (P, M) where it has."""
    p, m = groups.shares.shape
    summed = np.zeros((p, m, mixtures.means.shape[2]))
    rows, columns = (groups.group >= 0).nonzero()
    of = groups.group[rows, columns]
    np.add.at(summed, (rows, of), mixtures.weights[rows, columns, None] * mixtures.means[rows, columns])
    present = groups.shares > 0
    # from the barycentre, so that a constant far from 0 costs no digits
    offset = summed / np.where(present, groups.shares, 1)[..., None] - groups.means
    covariance = groups.covariances
    if w is not None:
        metric = np.asarray(w, dtype=np.float64)
        offset, covariance = offset @ metric.T, metric @ covariance @ metric.T
    values, vectors = np.linalg.eigh(covariance)
    scale = np.sqrt(np.maximum(values, 1e-9 * values[:, -1:] + 1e-300))
    white = np.einsum("pmi,mij->pmj", offset, vectors) / scale
    return np.where(present[..., None], white, 0.0), present


def _analyse(
    y: NDArray[np.float64], present: NDArray[np.bool_], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shift, corrected effect and permutation chance (M,) of y (P, M, r) by labels (B, P, C), the first the real ones.

    With centred y, the sum of squares between conditions is sum_c |sum_i l_ic y_i|^2 / n_c.
    """
    mask = present.astype(np.float64)
    count = mask.sum(axis=0)
    centred = (y - (y.sum(axis=0) / np.maximum(count, 1)[:, None])) * mask[..., None]
    size = np.einsum("bpc,pm->bcm", labels, mask)
    summed = np.einsum("bpc,pmj->bcmj", labels, centred, optimize=True)
    between = ((summed**2).sum(axis=3) / np.maximum(size, 1)).sum(axis=1)
    total = (centred**2).sum(axis=(0, 2))
    exceeds = between[1:] >= between[0] * (1 - 1e-9)
    chance = (1 + exceeds.sum(axis=0)) / len(labels)
    explained = between[0] / np.where(total > 0, total, 1)
    used = (size[0] > 0).sum(axis=0)
    left = count - used
    effect = np.where(left > 0, 1 - (1 - explained) * (count - 1) / np.maximum(left, 1), 0.0)
    mean = summed[0] / np.maximum(size[0], 1)[..., None]
    apart = np.linalg.norm(mean[:, None] - mean[None], axis=-1) * ((size[0] > 0)[:, None] & (size[0] > 0)[None])
    return apart.max(axis=(0, 1)), np.where(total > 0, np.clip(effect, 0, 1), 0.0), chance
