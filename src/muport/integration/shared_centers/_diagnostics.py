"""How much batches mix, and how much of the geometry of the input is kept: Eqs 17-22 on a subsample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from sklearn.manifold import trustworthiness

from muport.integration._fitted_state import transform_cells
from muport.integration.batch_variables._explained_variance import explain_variance
from muport.integration.shared_centers._batch_effect_test import measure_batch_effect
from muport.neighbors import kmeans, knn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState
    from muport.integration._hyperparameters import FitOptions
    from muport.integration.prototypes._standardized_cells import StandardizedCells

__all__ = [
    "DIAGNOSED_CELLS",
    "Diagnostics",
    "ObjectiveWeights",
    "diagnose",
    "measure_mixing",
    "neighbor_entropy",
    "compute_metrics",
    "describe_metrics",
    "measure_batch_variance",
    "measure_kept_neighbors",
]

DIAGNOSED_CELLS = 1_500  # in the sample on which a fit is scored

_NEIGHBORS = 30
_RANKED_CELLS = 500  # cells of the trustworthiness, which takes quadratic memory
_MOST_STRETCH = 1.0  # relative change of the length of an edge above which the strain no longer grows


@dataclass(frozen=True)
class ObjectiveWeights:
    """Weights of the selection objective, Eqs 20-21; the defaults are the values of the paper."""

    overlap: float = 0.18
    strain: float = 1.0
    penalty: float = 1.4
    drop: float = 0.45


@dataclass(frozen=True)
class Diagnostics:
    """Scores of an embedding x, compared with the input x0.

    - `mix`: Mean entropy (nats) of the groups among the neighbors of a cell, Eq. 17.
    - `mix_input`: The same for the input.
    - `overlap`: Fraction of the neighbors of a cell that are its neighbors in the input, Eq. 18.
    - `strain`: Mean squared relative change of the lengths of the edges of the input, Eq. 19.
    - `trustworthiness`: 1 minus the rank-weighted fraction of new neighbors, Eq. 22.
    """

    mix: float
    mix_input: float
    overlap: float
    strain: float
    trustworthiness: float

    def objective(
        self, floor: float = 0.6, best_overlap: float = 0.0, weights: ObjectiveWeights | None = None
    ) -> float:
        """Return the selection objective J (Eqs 20-21); it is ``weights.overlap`` for the identity."""
        w = weights or ObjectiveWeights()
        penalty = w.penalty * max(0.0, floor - self.overlap) ** 2 + w.drop * max(0.0, best_overlap - self.overlap)
        return self.mix - self.mix_input + w.overlap * self.overlap - w.strain * self.strain - penalty


def neighbor_entropy(neighbors: NDArray[np.int64], n_groups: int) -> NDArray[np.float64]:
    """Entropy (nats) of the groups in each row of `neighbors`, the (n, k) groups of the neighbors, Eq. 8."""
    n, k = neighbors.shape
    key = np.arange(n)[:, None] * n_groups + neighbors
    proportions = np.bincount(key.ravel(), minlength=n * n_groups).reshape(n, n_groups) / k
    entropy: NDArray[np.float64] = -(proportions * np.log(proportions + 1e-12)).sum(axis=1)
    return np.maximum(entropy, 0)


def measure_mixing(x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int) -> float:
    """Mean entropy (nats) of the groups (n,) among the neighbors of cells (n, d), Eq. 17."""
    k = min(_NEIGHBORS, (len(x) - 1) // 2)
    return float(neighbor_entropy(group[knn(x, k, method="exact").indices], n_groups).mean()) if k else 0.0


def diagnose(
    x0: NDArray[np.float32], x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int, *, ranks: bool = True
) -> Diagnostics:
    """Compare an embedding with its input.

    - `x0`: (n, d) cells of the input.
    - `x`: (n, d) the same cells after the integration.
    - `group`: (n,) groups.
    - `ranks`: Whether to compute the trustworthiness, on at most 500 cells; NaN if not.
    """
    k = min(_NEIGHBORS, (len(x) - 1) // 2)
    if k < 1:
        return Diagnostics(0.0, 0.0, 1.0, 0.0, 1.0)
    before, after = knn(x0, k, method="exact"), knn(x, k, method="exact")
    # One neighbor at a time: all differences together would be the largest array of a fit on few cells.
    length = np.stack([np.linalg.norm(x - x[column], axis=1) for column in before.indices.T], axis=1)
    not_duplicate = before.distances > 0
    stretch = np.divide(length, before.distances, out=np.ones_like(length), where=not_duplicate) - 1
    return Diagnostics(
        mix=float(neighbor_entropy(group[after.indices], n_groups).mean()),
        mix_input=float(neighbor_entropy(group[before.indices], n_groups).mean()),
        overlap=_fraction_in_common(before.indices, after.indices),
        strain=float(np.square(np.clip(stretch, -_MOST_STRETCH, _MOST_STRETCH)).mean()),
        trustworthiness=_trustworthiness(x0, x, k) if ranks else float("nan"),
    )


def _fraction_in_common(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Mean fraction of the neighbors `before` (n, k) of a cell that are among those `after` (n, k)."""
    return float((before[:, :, None] == after[:, None, :]).any(axis=2).mean())


def _trustworthiness(x0: NDArray[np.float32], x: NDArray[np.float32], k: int) -> float:
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), _RANKED_CELLS)).astype(np.int64))
    return float(trustworthiness(x0[rows], x[rows], n_neighbors=min(k, (len(rows) - 1) // 2)))


def measure_kept_neighbors(
    x0: NDArray[np.float32], x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int
) -> float:
    """Fraction (0..1) of the 30 nearest cells of the same group that are still so: structure that needs no correction.

    - `x0`: (n, d) cells of the input.
    - `x`: (n, d) the same cells after the integration.
    - `group`: (n,) groups; those with fewer than 3 cells are left out, and 1 is returned if all are.
    """
    kept, n_cells = 0.0, 0
    for code in range(n_groups):
        rows = np.flatnonzero(group == code)
        k = min(_NEIGHBORS, (len(rows) - 1) // 2)
        if k > 0:
            before, after = (knn(values[rows], k, method="exact").indices for values in (x0, x))
            kept += _fraction_in_common(before, after) * len(rows)
            n_cells += len(rows)
    return kept / n_cells if n_cells else 1.0


def measure_batch_variance(
    x0: NDArray[np.float32], x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int, seed: int
) -> tuple[float, float]:
    """Fraction (0..1) of the variance within clusters that the groups explain, in the input and in the embedding.

    Clusters are those of the embedding, so that a difference in composition between the groups plays no role.

    - `x0`: (n, d) cells of the input.
    - `x`: (n, d) the same cells after the integration.
    - `group`: (n,) groups.
    """
    cluster = kmeans(x, max(1, int(np.sqrt(len(x)))), random_state=seed).labels
    indicators = [np.eye(n_groups)[group]]
    (before,), (after,) = explain_variance(x0, cluster, indicators), explain_variance(x, cluster, indicators)
    return before, after


def describe_metrics(metrics: Mapping[str, float], n_groups: int) -> str:
    """Describe a fit: how far cells moved, what was kept, and what is left of the batch effect."""
    if n_groups == 1:
        return "All cells are one batch, so none was moved."
    return (
        f"Cells moved by {metrics['move']:.2f} of their root mean square distance from the mean. Within batches, "
        f"{metrics['neighbors_kept']:.0%} of the nearest neighbors are kept. The batches explain "
        f"{metrics['batch_variance']:.1%} of the variance within clusters before and "
        f"{metrics['batch_variance_left']:.1%} after."
    )


def compute_metrics(
    state: IntegrationState,
    cells: StandardizedCells,
    options: FitOptions,
    *,
    iteration: int,
    transported_mass: float,
    converged: bool,
    objective: float | None = None,
) -> dict[str, float]:
    """Compute the metrics of a fit on a sample of its cells: the entries of ``metrics_`` that all algorithms have.

    - `transported_mass`: Mean over the groups of the sum over the centers of min(the group's proportion, the mean
      proportion).
    - `objective`: Objective J that selected the result; that of the sample by default.
    """
    rows = cells.sample_rows(DIAGNOSED_CELLS, options.seed + 1)
    before, group = cells.x[rows], cells.group[rows]
    of_standardized = replace(state, center=np.zeros_like(state.center), scale=1.0)
    after = transform_cells(before, group, of_standardized, device=options.search_device)
    n_groups = len(cells.group_names)
    diagnostics = diagnose(before, after, group, n_groups)
    explained, explained_left = measure_batch_variance(before, after, group, n_groups, options.seed)
    return asdict(diagnostics) | {
        "neighbors_kept": measure_kept_neighbors(before, after, group, n_groups),
        "evidence_left": measure_batch_effect(after, group, n_groups, options.seed),
        "batch_variance": explained,
        "batch_variance_left": explained_left,
        "objective": diagnostics.objective() if objective is None else objective,
        "evidence": state.batch_effect,
        "iteration": float(iteration),
        "transported_mass": transported_mass,
        "move": float(np.linalg.norm(after - before, axis=1).mean()),
        "converged": float(converged),
    }
