"""The order of patients along a trajectory, and what changes along it; the samples are the replicates.

Symbols: P patients, M groups of matched components, d dimensions, g features, t pseudotime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm, rankdata, spearmanr
from scipy.stats import t as student

from muport._arrays import describe_fields
from muport.gmm.distances._mixture_wasserstein import compute_plans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.interpretation._component_groups import ComponentGroups
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = [
    "PatientTrajectory", "component_programs", "distances_without", "feature_programs", "find_end", "log_odds",
    "patient_affinities", "time_from",
]  # fmt: skip

#: Smallest affinity of two patients: it connects groups that are far apart, so that every patient has a time.
_MIN_AFFINITY = 1e-6
_MIN_PATIENTS = 5  # with fewer, a correlation has no interval


@dataclass(frozen=True, eq=False)
class PatientTrajectory:
    """The order of patients, and the components and features that change along it.

    Attributes
    ----------
    pseudotime
        Diffusion pseudotime of each patient, from 0 at the root to 1.
    root
        Name of the root.
    components
        One row per component: ``n_samples`` that have it; ``share_rho``, the rank correlation of its log-odds with
        the pseudotime, its 95 % interval ``share_low`` and ``share_high``, ``share_p`` and ``share_q``; ``state_r2``,
        the fraction of the variance of its mean and covariance that the pseudotime explains, corrected for chance,
        with ``state_p`` and ``state_q``, by permutation.
    features
        One row per component and feature: ``slope`` of its mean from the start to the end of the trajectory, 95 %
        interval ``low`` and ``high``, ``p``, and ``q`` over all rows; None without loadings.
    """

    pseudotime: pd.Series
    root: str
    components: pd.DataFrame
    features: pd.DataFrame | None

    __repr__ = describe_fields


def patient_affinities(distances: NDArray[np.float64], n_neighbors: int) -> NDArray[np.float64]:
    r"""Compute affinities of patients, :math:`\exp(-D_{ij}^2 / (\sigma_i \sigma_j))`, at least 1e-6.

    - `distances`: (P, P).
    - `n_neighbors`: :math:`\sigma_i` is the distance of patient i from this neighbor (Zelnik-Manor and Perona 2004), at
      most from that of a quarter of the patients.

    Returns (P, P), symmetric, with a diagonal of 0.
    """
    # in a small cohort the fifth neighbor may be at the other end
    scale = np.sort(distances, axis=1)[:, max(1, min(n_neighbors, len(distances) // 4))]
    # patients that are alike have a scale of 0
    scale = np.maximum(scale, 1e-9 * max(float(distances.max()), 1e-300))
    affinity = np.maximum(np.exp(-np.square(distances) / np.outer(scale, scale)), _MIN_AFFINITY)
    np.fill_diagonal(affinity, 0)
    return affinity


def time_from(coordinates: NDArray[np.float64], root: int) -> NDArray[np.float64]:
    """Distances (P,) from the root in diffusion coordinates (P, r), the largest 1."""
    values = np.linalg.norm(coordinates - coordinates[root], axis=1)
    time: NDArray[np.float64] = values / max(float(values.max()), 1e-300)
    return time


def find_end(coordinates: NDArray[np.float64], target: NDArray[np.float64] | None) -> int:
    """Position of the patient at the end of the slowest diffusion coordinate at which the outcome is lowest.

    - `coordinates`: (P, r) diffusion coordinates.
    - `target`: (P,) numbers of the outcome, NaN where it is not known; without them, the end with fewer patients.
    """
    slowest = coordinates[:, np.square(coordinates - coordinates.mean(axis=0)).sum(axis=0).argmax()]
    known = np.zeros(len(slowest), bool) if target is None else ~np.isnan(target)
    sign = 0.0
    if target is not None and known.sum() > 1:
        ranks = rankdata(target[known])
        sign = float(np.cov(slowest[known], ranks)[0, 1])
    if sign == 0:
        sign = float(np.median(slowest) - (slowest.min() + slowest.max()) / 2)
    return int(slowest.argmin() if sign >= 0 else slowest.argmax())


def distances_without(
    group: int, mixtures: Mixtures, groups: ComponentGroups, costs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """MW2 distances (P', P') of the mixtures without the components of one group, and which patients (P,) have others.

    - `costs`: (P, P, K, K) squared distances between the components.
    """
    left = np.where(groups.group == group, 0.0, mixtures.weights)
    mass = left.sum(axis=1)
    kept = mass > 1e-9
    rest = replace(mixtures.subset(kept), weights=left[kept] / mass[kept, None])
    between = costs[np.ix_(kept, kept)]
    squared = (compute_plans(rest, None, between) * between).sum((2, 3))
    return np.sqrt(np.maximum((squared + squared.T) / 2, 0)), kept


def log_odds(shares: NDArray[np.float64], n_cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds (P, M) of shares (P, M) in n_cells (P,) cells; a share is at least .65 of a cell away from 0 and 1."""
    limit = np.minimum(0.65 / np.maximum(n_cells, 1), 0.25)[:, None]
    inside = np.clip(shares, limit, 1 - limit)
    odds: NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def component_programs(
    odds: NDArray[np.float64],
    states: NDArray[np.float64],
    present: NDArray[np.bool_],
    times: NDArray[np.float64],
    items: Sequence[str],
    n_permutations: int,
    random_state: int,
) -> pd.DataFrame:
    """Test which components change along the trajectory, in their share or in their mean and covariance.

    - `odds`: (P, M) log-odds of the shares.
    - `states`: (P, M, r) coordinates of the components, 0 where a patient lacks one.
    - `present`: (P, M) which components a patient has.
    - `times`: (P, M) pseudotime for each component, NaN for patients that do not count.
    - `items`: Names of the components.
    - `n_permutations`, `random_state`: Permutations of the times of patients, and their seed.

    Returns the table of :class:`PatientTrajectory`.
    """
    rng = np.random.default_rng(random_state)
    rows = []
    for m in range(len(items)):
        timed = ~np.isnan(times[:, m])
        both = timed & present[:, m]
        share = _rank_correlation(odds[timed, m], times[timed, m])
        state = _explained(states[both, m], times[both, m], n_permutations, rng)
        rows.append([int(present[:, m].sum()), *share, *state])
    names = ["n_samples", "share_rho", "share_low", "share_high", "share_p", "state_r2", "state_p"]
    table = pd.DataFrame(rows, index=pd.Index(items, name="item"), columns=names)
    for part, after in (("share", 5), ("state", 8)):
        table.insert(after, f"{part}_q", false_discovery_control(table[f"{part}_p"].to_numpy()))
    return table


def _rank_correlation(y: NDArray[np.float64], t: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Spearman's correlation, its 95 % interval by Fisher's transformation (Bonett and Wright 2000), and p."""
    if len(y) < _MIN_PATIENTS or not np.ptp(y) or not np.ptp(t):
        return 0.0, -1.0, 1.0, 1.0
    rho, p = (float(value) for value in spearmanr(y, t))
    center = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    half = float(norm.ppf(0.975)) * np.sqrt((1 + rho**2 / 2) / (len(y) - 3))
    return rho, float(np.tanh(center - half)), float(np.tanh(center + half)), p


def _explained(
    y: NDArray[np.float64], t: NDArray[np.float64], n_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Fraction of the variance of y (n, r) that a line in t (n,) explains, corrected for chance, and its p-value."""
    centered, x = y - y.mean(axis=0) if len(y) else y, t - t.mean() if len(t) else t
    total = float(np.square(centered).sum())
    if len(y) < _MIN_PATIENTS or total <= 0 or not np.ptp(x):
        return 0.0, 1.0
    permuted = np.vstack([x[None], rng.permuted(np.tile(x, (n_permutations, 1)), axis=1)])
    # by the kernel of the patients, which is smaller than the coordinates
    kernel = centered @ centered.T
    between = np.einsum("bi,ij,bj->b", permuted, kernel, permuted, optimize=True) / np.square(x).sum()
    p = (1 + int((between[1:] >= between[0] * (1 - 1e-9)).sum())) / (n_permutations + 1)
    adjusted = 1 - (1 - between[0] / total) * (len(y) - 1) / (len(y) - 2)
    return float(np.clip(adjusted, 0, 1)), p


def feature_programs(
    means: NDArray[np.float64],
    present: NDArray[np.bool_],
    times: NDArray[np.float64],
    loadings: NDArray[np.float64],
    features: Sequence[str],
    items: Sequence[str],
) -> pd.DataFrame:
    """Regress the mean of each feature in each component on the pseudotime, with patients as replicates.

    - `means`: (P, M, d) means of the components.
    - `present`, `times`, `items`: As for :func:`component_programs`.
    - `loadings`: (g, d) loadings of the representation.
    - `features`: (g,) names.

    Returns the table of :class:`PatientTrajectory`, for components of enough patients.
    """
    tables = []
    for m, item in enumerate(items):
        rows = present[:, m] & ~np.isnan(times[:, m])
        t = times[rows, m]
        if len(t) < _MIN_PATIENTS or not np.ptp(t):
            continue
        # centered before the product, against cancellation far from 0
        y = (means[rows, m] - means[rows, m].mean(axis=0)) @ loadings.T
        x = t - t.mean()
        square = float(x @ x)
        slope = x @ y / square
        freedom = len(t) - 2
        error = np.sqrt(np.square(y - np.outer(x, slope)).sum(axis=0) / freedom / square)
        statistic = np.divide(slope, error, out=np.zeros_like(slope), where=error > 0)
        half = float(student.ppf(0.975, freedom)) * error
        columns = {
            "item": item, "feature": list(features), "slope": slope, "low": slope - half, "high": slope + half,
            "p": 2 * student.sf(np.abs(statistic), freedom),
        }  # fmt: skip
        tables.append(pd.DataFrame(columns))
    if not tables:
        return pd.DataFrame(columns=["item", "feature", "slope", "low", "high", "p", "q"])
    table = pd.concat(tables, ignore_index=True)
    table["q"] = false_discovery_control(table["p"].to_numpy())
    return table
