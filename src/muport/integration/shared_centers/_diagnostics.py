"""How much batches mix and how much of the input's geometry is left: Eqs 17-22 on a subsample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.manifold import trustworthiness

from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Diagnostics", "ObjectiveWeights", "diagnose", "measure_mixing", "neighbor_entropy"]

_NEIGHBORS = 30
_RANKED = 500  # cells of the trustworthiness, whose memory is quadratic
_CLIP = 1.0  # relative change of an edge's length beyond which strain no longer grows


@dataclass(frozen=True)
class ObjectiveWeights:
    """Weights of the selection objective, Eqs 20-21, at the paper's values."""

    overlap: float = 0.18
    strain: float = 1.0
    penalty: float = 1.4
    drop: float = 0.45


@dataclass(frozen=True)
class Diagnostics:
    """Scores of an embedding x against the input x0.

    Attributes
    ----------
    mix
        Mean entropy (nats) of the groups among a cell's neighbours, Eq. 17.
    mix_input
        The same for the input.
    overlap
        Share of a cell's neighbours that it had in the input, Eq. 18.
    strain
        Mean squared relative change of the lengths of the input's edges, Eq. 19.
    trustworthiness
        1 minus the rank-weighted share of new neighbours, Eq. 22.
    """

    mix: float
    mix_input: float
    overlap: float
    strain: float
    trustworthiness: float

    def objective(
        self, floor: float = 0.6, best_overlap: float = 0.0, weights: ObjectiveWeights | None = None
    ) -> float:
        """Selection objective J (Eqs 20-21); the identity scores ``weights.overlap``."""
        w = weights or ObjectiveWeights()
        penalty = w.penalty * max(0.0, floor - self.overlap) ** 2 + w.drop * max(0.0, best_overlap - self.overlap)
        return self.mix - self.mix_input + w.overlap * self.overlap - w.strain * self.strain - penalty


def neighbor_entropy(neighbors: NDArray[np.int64], n_groups: int) -> NDArray[np.float64]:
    """Entropy in nats of the groups in each row of (n, k) neighbours' groups, Eq. 8."""
    n, k = neighbors.shape
    key = np.arange(n)[:, None] * n_groups + neighbors
    part = np.bincount(key.ravel(), minlength=n * n_groups).reshape(n, n_groups) / k
    entropy: NDArray[np.float64] = -(part * np.log(part + 1e-12)).sum(axis=1)
    return np.maximum(entropy, 0)


def measure_mixing(x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int) -> float:
    """Mean entropy (nats) of the groups (n,) among the neighbours of cells (n, d), Eq. 17."""
    k = min(_NEIGHBORS, (len(x) - 1) // 2)
    return float(neighbor_entropy(group[knn(x, k, method="exact").indices], n_groups).mean()) if k else 0.0


def diagnose(
    x0: NDArray[np.float32], x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int, *, ranks: bool = True
) -> Diagnostics:
    """Compare an embedding with the input it came from.

    Parameters
    ----------
    x0
        (n, d) cells as they were.
    x
        (n, d) the same cells integrated.
    group
        (n,) groups.
    n_groups
        Number of groups.
    ranks
        Whether to compute the trustworthiness, on at most 500 cells; NaN if not.
    """
    k = min(_NEIGHBORS, (len(x) - 1) // 2)
    if k < 1:
        return Diagnostics(0.0, 0.0, 1.0, 0.0, 1.0)
    before, after = knn(x0, k, method="exact"), knn(x, k, method="exact")
    shared = (before.indices[:, :, None] == after.indices[:, None, :]).any(axis=2).mean()
    # a neighbour at a time: all differences together would be the largest array of a fit on few cells
    length = np.stack([np.linalg.norm(x - x[column], axis=1) for column in before.indices.T], axis=1)
    real = before.distances > 0
    stretch = np.divide(length, before.distances, out=np.ones_like(length), where=real) - 1
    return Diagnostics(
        mix=float(neighbor_entropy(group[after.indices], n_groups).mean()),
        mix_input=float(neighbor_entropy(group[before.indices], n_groups).mean()),
        overlap=float(shared),
        strain=float(np.square(np.clip(stretch, -_CLIP, _CLIP)).mean()),
        trustworthiness=_trustworthiness(x0, x, k) if ranks else float("nan"),
    )


def _trustworthiness(x0: NDArray[np.float32], x: NDArray[np.float32], k: int) -> float:
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), _RANKED)).astype(np.int64))
    return float(trustworthiness(x0[rows], x[rows], n_neighbors=min(k, (len(rows) - 1) // 2)))
