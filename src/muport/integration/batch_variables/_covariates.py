"""Effects of continuous covariates: slopes of the coordinates, everywhere and near clusters, fitted within groups.

Within the cells of one cluster and one group, a coordinate is a linear function of the covariates. Neither the
composition of the cells nor the differences between the groups enter the slopes, even if they depend on a covariate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.prototypes._standardized_cells import order_by_group
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CovariateEffects", "describe_covariates", "fit_covariates", "remove_covariates"]

_CELLS = 20_000  # on which slopes are fitted
_CLUSTERS_PER_ROOT, _MOST_CLUSTERS = 1 / 3, 50  # clusters per square root of the number of cells
_ITERATIONS = 10
_LEAST_CHANGE = 0.01  # relative change of the effects at which the iterations stop
_CHANCE = 2.5  # times the expected square of a slope under chance that count as no slope
_LEAST_WITHIN = 1e-6  # fraction of the variance of a covariate that the groups and the other covariates must leave
_NOTABLE = 0.1  # fraction of that variance that they explain, from which it is reported
_BLOCK = 2**14  # cells that are corrected together
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class CovariateEffects:
    """Slopes of the coordinates of the input on standardized covariates.

    - `names`: Names of the covariates.
    - `fractions`: Fraction of the effect of each that is removed.
    - `mean`, `scale`: Mean and standard deviation of each, by which new values are standardized.
    - `low`, `high`: Range of the standardized values; values beyond it count as its ends.
    - `slope`: (J, d) slopes everywhere.
    - `position`: (Q, d) centers of clusters.
    - `deviation`: (Q, J, d) slopes beyond those near each center.
    - `explained`: Fraction of the variance of each that the groups and the other covariates explain.
    """

    names: Annotated[tuple[str, ...], "J"]
    fractions: Annotated[tuple[float, ...], "J", "0..1"]
    mean: Annotated[NDArray[np.float64], "J"]
    scale: Annotated[NDArray[np.float64], "J", "0.."]
    low: Annotated[NDArray[np.float64], "J"]
    high: Annotated[NDArray[np.float64], "J"]
    slope: Annotated[NDArray[np.float32], "J d"]
    position: Annotated[NDArray[np.float32], "Q d"]
    deviation: Annotated[NDArray[np.float32], "Q J d"]
    explained: Annotated[tuple[float, ...], "J", "0..1"]

    def standardize(self, covariates: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return covariates (n, J) in units of the fit."""
        values = np.clip((covariates - self.mean) / self.scale, self.low, self.high)
        standardized: NDArray[np.float32] = values.astype(np.float32)
        return standardized


def remove_covariates(
    x: NDArray[np.float32],
    covariates: NDArray[np.float64],
    effects: CovariateEffects,
    device: str | None = None,
) -> NDArray[np.float32]:
    """Remove the effects of covariates (n, J) from cells (n, d): a function of each cell and of its covariates."""
    if not effects.slope.any() and not effects.deviation.any():
        return x
    moved = np.empty_like(x)
    values = effects.standardize(covariates)
    fractions = np.array(effects.fractions, np.float32)
    for low in range(0, len(x), _BLOCK):
        rows = slice(low, low + _BLOCK)
        moved[rows] = x[rows] - _compute_effects(x[rows], values[rows], effects, fractions, device)
    return moved


def _compute_effects(
    x: NDArray[np.float32],
    values: NDArray[np.float32],
    effects: CovariateEffects,
    fractions: NDArray[np.float32],
    device: str | None = None,
) -> NDArray[np.float32]:
    """(n, d) effects of standardized covariates (n, J), of each a fraction.

    A cell is located by the slopes everywhere, because the slopes near a center are known only then.
    """
    near, weight = soft_assign(x - values @ effects.slope, effects.position, device=device)
    scaled = values * fractions
    effect = (scaled @ effects.slope).astype(np.float32)
    for rank in range(near.shape[1]):
        for j in range(values.shape[1]):
            share = (weight[:, rank] * scaled[:, j])[:, None]
            effect += (share * effects.deviation[near[:, rank], j]).astype(np.float32)
    return effect


def fit_covariates(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    covariates: NDArray[np.float64],
    names: Sequence[str],
    fractions: Sequence[float],
    seed: int,
) -> CovariateEffects:
    """Fit the slopes within clusters and groups; clusters are those of the cells without the effects, in turn.

    Slopes are shrunk by their evidence: those everywhere by the positive-part James-Stein factor, and the deviations
    near a cluster toward 0 by the ratio of their noise to their spread over the clusters.

    - `x`: (n, d) cells.
    - `group`: (n,) codes; the names of the groups play no role.
    - `covariates`: (n, J) values.
    - `fractions`: (J,) fraction (0..1) of each effect that is removed.
    """
    # in an order that neither the order of the cells nor the names of the groups change
    order = order_by_group(x, group, int(group.max(initial=0)) + 1)[0]
    ordered: NDArray[np.float64] = covariates[order]
    mean, scale = ordered.mean(axis=0), ordered.std(axis=0)
    scale = np.where(scale > _TINY * np.abs(mean), scale, 1.0)
    standardized = (ordered - mean) / scale
    low, high = standardized.min(axis=0), standardized.max(axis=0)
    taken = np.arange(len(order))
    if len(order) > _CELLS:
        taken = np.sort(np.random.default_rng(seed).choice(len(order), _CELLS, replace=False))
    x, group, values = x[order[taken]], group[order[taken]], standardized[taken].astype(np.float32)
    usable, explained = _measure_separability(group, values)
    d, n_clusters = x.shape[1], int(np.clip(round(_CLUSTERS_PER_ROOT * np.sqrt(len(x))), 1, _MOST_CLUSTERS))

    def build(
        slope: NDArray[np.float64], position: NDArray[np.float32], deviation: NDArray[np.float64]
    ) -> CovariateEffects:
        return CovariateEffects(
            tuple(names), tuple(map(float, fractions)), mean, scale, low, high, slope.astype(np.float32), position,
            deviation.astype(np.float32), explained,
        )  # fmt: skip

    center = x.mean(axis=0, keepdims=True)
    effects = build(np.zeros((len(mean), d)), center, np.zeros((1, len(mean), d)))
    whole, effect = np.ones(len(mean), np.float32), np.zeros_like(x)
    for _ in range(_ITERATIONS if usable.any() else 0):
        clusters = kmeans(x - effect, n_clusters, random_state=seed)
        slope, deviation = _fit_slopes(x, values, usable, clusters.labels, group)
        effects = build(slope, clusters.centers, deviation)
        before, effect = effect, _compute_effects(x, values, effects, whole)
        if np.square(effect - before).sum() <= _LEAST_CHANGE**2 * np.square(effect).sum():
            break
    return effects


def _measure_separability(
    group: NDArray[np.int64], values: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """Find the covariates (J,) that vary within groups, and the fraction of each that the rest explains."""
    within = _center_within(values.astype(np.float64), np.unique(group, return_inverse=True)[1])
    total = np.square(values - values.mean(axis=0)).sum(axis=0)
    explained = []
    for j in range(values.shape[1]):
        others = np.delete(within, j, axis=1)
        rest = within[:, j] - others @ np.linalg.lstsq(others, within[:, j], rcond=1e-9)[0]
        explained.append(float(np.clip(1 - np.square(rest).sum() / max(float(total[j]), _TINY), 0, 1)))
    usable = np.square(within).sum(axis=0) > _LEAST_WITHIN * total
    return usable, tuple(explained)


def _center_within(values: NDArray[np.float64], code: NDArray[np.int64]) -> NDArray[np.float64]:
    """Subtract from values (n, m) the mean of the rows with the same code."""
    n = np.maximum(np.bincount(code), 1)
    total = np.stack([np.bincount(code, column) for column in values.T], axis=1)
    centered: NDArray[np.float64] = values - (total / n[:, None])[code]
    return centered


def _fit_slopes(
    x: NDArray[np.float32],
    values: NDArray[np.float32],
    usable: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    group: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes (J, d) everywhere and deviations (Q, J, d) of the clusters, within the cells of a cluster and a group."""
    n_clusters, d = int(cluster.max()) + 1, x.shape[1]
    cells = np.unique(cluster * (int(group.max()) + 1) + group, return_inverse=True)[1]
    y, c = _center_within(x.astype(np.float64), cells), _center_within(values[:, usable].astype(np.float64), cells)
    members = [np.flatnonzero(cluster == q) for q in range(n_clusters)]
    gram = np.stack([c[rows].T @ c[rows] for rows in members])
    cross = np.stack([c[rows].T @ y[rows] for rows in members])
    inverse = np.linalg.pinv(gram.sum(axis=0), rcond=1e-9, hermitian=True)
    slope = inverse @ cross.sum(axis=0)
    # how far the slope of each cluster differs, and how far it would by chance
    rest = cross - gram @ slope
    own = np.linalg.pinv(gram, rcond=1e-6, hermitian=True) @ rest
    rss = max(float(np.square(y - c @ slope).sum() - (own * rest).sum()), 0.0)
    n_slopes = int(sum(np.linalg.matrix_rank(g, tol=1e-6 * max(float(np.trace(g)), _TINY)) for g in gram))
    noise = rss / max(len(x) - int(cells.max()) - 1 - n_slopes, 1)
    spread = max(0.0, float((own * rest).sum()) - max(n_slopes - c.shape[1], 0) * noise) / max(
        float(np.trace(gram.sum(axis=0))), _TINY
    )
    square = np.square(slope).sum(axis=1)
    shrunk = np.maximum(0, 1 - _CHANCE * noise * np.diag(inverse) / np.maximum(square, _TINY))[:, None] * slope
    deviation = np.zeros_like(own)
    if spread > 0:
        penalty = noise / spread * np.eye(c.shape[1])
        deviation = np.linalg.solve(gram + penalty, rest)
    all_slopes, all_deviations = np.zeros((values.shape[1], d)), np.zeros((n_clusters, values.shape[1], d))
    all_slopes[usable], all_deviations[:, usable] = shrunk, deviation
    return all_slopes, all_deviations


def describe_covariates(effects: CovariateEffects) -> list[str]:
    """Say which covariates cannot be separated from the groups and from the other covariates, or only badly."""
    sentences = []
    for name, share in zip(effects.names, effects.explained, strict=True):
        if share > 1 - _LEAST_WITHIN:
            sentences.append(
                f"The covariate {name!r} is determined by the batches or the other covariates: its effect cannot be "
                "separated from theirs."
            )
        elif share >= _NOTABLE:
            sentences.append(f"The batches and the other covariates explain {share:.0%} of the variance of {name!r}.")
    return sentences
