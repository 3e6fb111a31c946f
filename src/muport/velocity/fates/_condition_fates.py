"""Fates of the cells of each sample, and their difference between two conditions, with samples as replicates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]
    type Ints = NDArray[np.int64]

__all__ = ["SampleDesign", "check_design", "compare_conditions", "sample_shares"]

_BATCH = 1024  # permutations that are computed at once
_MIN_VARIANCE = 1e-12  # of logits; smaller residuals give no test


@dataclass(frozen=True, eq=False)
class SampleDesign:
    """Condition and stratum of each of S samples.

    - `condition`: (S,) 0 or 1.
    - `stratum`: (S,) int64 codes; one value without strata.
    """

    condition: Ints
    stratum: Ints

    @property
    def n_permutations(self) -> int:
        """Number of ways to assign the conditions to samples within strata."""
        count = 1
        for code in np.unique(self.stratum):
            own = self.condition[self.stratum == code]
            count *= comb(len(own), int(own.sum()))
        return count


def check_design(design: SampleDesign, names: tuple[str, ...], condition_key: str) -> None:
    """Raise a ValueError unless two conditions with two samples each can be compared within the strata."""
    count = np.bincount(design.condition, minlength=len(names))
    sizes = dict(zip(names, count.tolist(), strict=True))
    if len(names) != 2 or count.min() < 2:
        raise ValueError(f"condition_key={condition_key!r}: two conditions with two samples each are needed: {sizes}.")
    if design.n_permutations < 2:
        raise ValueError(f"condition_key={condition_key!r}: no stratum has samples of both conditions {sizes}.")
    if len(design.condition) - len(np.unique(design.stratum)) - 1 < 1:
        raise ValueError("too few samples remain within the strata: merge strata, or leave them out.")


def sample_shares(fates: Floats, weight: Floats, sample: Ints, n_samples: int) -> tuple[Floats, Floats]:
    """(S, f) mean fates of the cells of each sample, and (S,) the weight of its cells; NaN without cells.

    - `fates`: (n, f) probabilities; cells without any are left out.
    - `weight`: (n,) weight of the cells; 0 leaves one out.
    """
    kept = weight * (fates.sum(axis=1) > 0)
    total = np.bincount(sample, kept, n_samples)
    columns = [np.bincount(sample, kept * column, n_samples) for column in fates.T]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(columns, axis=1) / total[:, None], total


def compare_conditions(
    shares: Floats, n_cells: Floats, design: SampleDesign, n_permutations: int, random_state: int
) -> pd.DataFrame:
    """Test each fate for a difference between two conditions; the samples are the replicates.

    Shares p of n cells become logits of (p n + .5) / (n + 1). Within strata these are centered, as are the
    indicators of the condition, and the coefficient of the indicator is tested with Student's t on S - (strata) - 1
    degrees of freedom: for two groups without strata, the t-test with a common variance. The permutation test compares
    |t| with its values when conditions are permuted between the samples of a stratum: all permutations if there are
    at most `n_permutations`, otherwise a sample of them.

    Returns one row for each fate: ``share_0``, ``share_1`` (means over samples), ``log_odds`` (coefficient), ``t``,
    ``p``, ``q`` and ``p_permutation``. ``p`` is 1 where all samples are the same.

    Examples
    --------
    >>> shares = np.array([[0.2], [0.3], [0.25], [0.7], [0.8], [0.75]])
    >>> design = SampleDesign(np.repeat([0, 1], 3), np.zeros(6, np.int64))
    >>> compare_conditions(shares, np.full(6, 100.0), design, 1000, 0)[["p", "p_permutation"]].round(4).values.tolist()
    [[0.0005, 0.1]]
    """
    n = n_cells[:, None]
    corrected = (shares * n + 0.5) / (n + 1)
    y = _center(np.log(corrected) - np.log1p(-corrected), design.stratum)
    freedom = len(shares) - len(np.unique(design.stratum)) - 1
    coefficient, t = (values[0] for values in _coefficients(design.condition[None], y, design.stratum, freedom))
    p = 2 * stats.t.sf(np.abs(t), freedom)
    labels = _permutations(design, n_permutations, np.random.default_rng(random_state))
    larger = np.zeros(shares.shape[1])
    for low in range(0, len(labels), _BATCH):
        permuted = _coefficients(labels[low : low + _BATCH], y, design.stratum, freedom)[1]
        larger += (np.abs(permuted) >= np.abs(t) * (1 - 1e-9)).sum(axis=0)
    exact = len(labels) == design.n_permutations
    p_permutation = larger / len(labels) if exact else (larger + 1) / (len(labels) + 1)
    return pd.DataFrame(
        {
            "share_0": shares[design.condition == 0].mean(axis=0),
            "share_1": shares[design.condition == 1].mean(axis=0),
            "log_odds": coefficient,
            "t": t,
            "p": p,
            "q": stats.false_discovery_control(p),
            "p_permutation": p_permutation,
        }
    )


def _center(values: Floats, stratum: Ints) -> Floats:
    """Subtract the mean of each stratum."""
    centered = values.astype(np.float64).copy()
    for code in np.unique(stratum):
        rows = stratum == code
        centered[rows] -= centered[rows].mean(axis=0)
    return centered


def _coefficients(labels: Ints, y: Floats, stratum: Ints, freedom: int) -> tuple[Floats, Floats]:
    """(B, f) coefficients, and their t, of B assignments (B, S) of conditions to samples; t is 0 without variance."""
    z = _center(labels.T.astype(np.float64), stratum)
    power = np.square(z).sum(axis=0)[:, None]
    coefficient = z.T @ y / power
    residual = np.maximum(np.square(y).sum(axis=0) - power * np.square(coefficient), 0)
    variance = residual / freedom / power
    varies = np.square(y).sum(axis=0) > _MIN_VARIANCE * len(y)
    t = np.where(varies, coefficient / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny)), 0)
    return coefficient, t


def _permutations(design: SampleDesign, n_permutations: int, rng: np.random.Generator) -> Ints:
    """(B, S) conditions permuted within strata: all ways if there are few, otherwise a sample."""
    if design.n_permutations > n_permutations:
        drawn = np.tile(design.condition, (n_permutations, 1))
        for code in np.unique(design.stratum):
            rows = np.flatnonzero(design.stratum == code)
            drawn[:, rows] = rng.permuted(drawn[:, rows], axis=1)
        return drawn
    choices = []
    for code in np.unique(design.stratum):
        rows = np.flatnonzero(design.stratum == code)
        choices.append(list(combinations(rows.tolist(), int(design.condition[rows].sum()))))
    labels = np.zeros((design.n_permutations, len(design.condition)), np.int64)
    for row, chosen in zip(labels, product(*choices), strict=True):
        row[[sample for part in chosen for sample in part]] = 1
    return labels
