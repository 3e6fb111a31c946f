"""Limits of the moves in the scBIOT paper: step cap, edge guard and PostScale, Eqs 14-16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.scbiot._proposed_moves import Floats, Indices
    from muport.neighbors import Neighbors

__all__ = ["Edges", "cap_moves", "guard_edges", "build_edges", "compute_moments", "postscale"]

_PUSH_ROUNDS = 10  # rounds in which the guard pushes points along edges that violate their limits
_MARGIN = 0.02  # relative distance to the limits at which the pushes aim
_HALVING_ROUNDS = 8  # rounds in which the guard halves moves before it sets them to 0
_MOST_ROUNDS = 100
_ROUNDING = 1e-5  # relative error of a length


def cap_moves(shift: Floats, limit: Floats) -> Floats:
    """Shorten the rows of `shift` (n, d) that are longer than `limit` (n,), Eq. 14."""
    length = np.linalg.norm(shift, axis=1)
    factor = np.divide(limit, length, out=np.ones_like(length), where=length > limit)
    return shift * factor[:, None]


@dataclass(frozen=True, eq=False)
class Edges:
    """Undirected edges of the neighbor graph of the input whose length is not 0.

    - `tail`, `head`: (E,) points at their ends.
    - `length`: (E,) their lengths in the input.
    - `component`: (n,) connected component of each point.
    """

    tail: Indices
    head: Indices
    length: Floats
    component: Indices

    def vectors(self, x: Floats, edges: Indices | slice = slice(None)) -> Floats:
        """(E, d) vectors from tail to head."""
        vectors: Floats = x[self.head[edges]]
        vectors -= x[self.tail[edges]]
        return vectors

    def stretch(self, x: Floats, edges: Indices | slice = slice(None)) -> Floats:
        """(E,) lengths relative to those in the input."""
        vector = self.vectors(x, edges)
        stretch: Floats = np.sqrt(np.einsum("ed,ed->e", vector, vector)) / self.length[edges]
        return stretch


def build_edges(graph: Neighbors) -> Edges:
    """Collect the edges of a neighbor graph. There is no edge between duplicates: a length of 0 cannot be stretched."""
    n, k = graph.indices.shape
    tail, head, length = np.repeat(np.arange(n), k), graph.indices.ravel(), graph.distances.ravel()
    _, component = connected_components(csr_array((np.ones(n * k), (tail, head)), shape=(n, n)), directed=False)
    low, high = np.minimum(tail, head), np.maximum(tail, head)
    _, first = np.unique(low * n + high, return_index=True)
    first = first[length[first] > 0]
    return Edges(low[first], high[first], length[first], component.astype(np.int64))


def guard_edges(x: Floats, move: Floats, edges: Edges, low: Floats, high: Floats, free: NDArray[np.bool_]) -> Floats:
    """(n, d) moves close to the given ones, after which every edge is within its limits, Eq. 15.

    First, the ends of edges that violate their limits are pushed along the edges. If this is not enough, moves are
    halved toward the mean move of the connected component, which changes no length, until all limits hold. The limits
    vary with beta, so an edge may violate them before the move: it may keep its length, but not move farther outside.

    - `x`: (n, d) points.
    - `move`: (n, d) their moves.
    - `low`, `high`: (n,) limits of the relative length of the edges at each point.
    - `free`: (n,) points that may move.
    """
    current = edges.stretch(x)
    least = np.minimum(np.maximum(low[edges.tail], low[edges.head]), current * (1 - _ROUNDING))
    most = np.maximum(np.minimum(high[edges.tail], high[edges.head]), current * (1 + _ROUNDING))
    move = _push_into_limits(x + move, edges, least, most, free) - x
    common = _average_by_component(move, edges.component, free)
    own = move - common
    fraction = np.ones((len(x), 1), np.float32)
    checked: Indices = np.arange(len(current))
    for rounds in range(_MOST_ROUNDS):
        stretch = edges.stretch(x + common + fraction * own, checked)
        violated = checked[(stretch < least[checked]) | (stretch > most[checked])]
        if not len(violated):
            return common + fraction * own
        changed = _mark_ends(edges, violated, len(x))
        fraction[changed] *= np.float32(0.5 if rounds < _HALVING_ROUNDS else 0)
        # only edges at a point that changed can have changed
        checked = np.flatnonzero(changed[edges.tail] | changed[edges.head])
    return common


def _mark_ends(edges: Edges, selected: Indices, n: int) -> NDArray[np.bool_]:
    is_end = np.zeros(n, bool)
    is_end[edges.tail[selected]] = is_end[edges.head[selected]] = True
    return is_end


def _average_by_component(move: Floats, component: Indices, free: NDArray[np.bool_]) -> Floats:
    """(n, d) mean move of the component of each point; 0 if a point of the component may not move."""
    n = len(component)
    membership = csr_array((np.ones(n, np.float32), component, np.arange(n + 1)), shape=(n, int(component.max()) + 1))
    mean = (membership.T @ move) / np.bincount(component)[:, None]
    mean[np.unique(component[~free])] = 0
    of_points: Floats = mean[component].astype(np.float32)
    return of_points


def _push_into_limits(y: Floats, edges: Edges, least: Floats, most: Floats, free: NDArray[np.bool_]) -> Floats:
    """Push points (n, d): in each round, each moves by the mean correction of its edges that violate their limits."""
    n, checked = len(y), np.arange(len(edges.length))
    for _ in range(_PUSH_ROUNDS):
        stretch = edges.stretch(y, checked)
        violating = np.flatnonzero((stretch < least[checked]) | (stretch > most[checked]))
        if not len(violating):
            break
        violated, stretch = checked[violating], stretch[violating]
        goal = np.clip(stretch, least[violated] * (1 + _MARGIN), most[violated] * (1 - _MARGIN))
        # each end makes half of the change
        change = (0.5 * (goal / np.maximum(stretch, _MARGIN) - 1))[:, None] * edges.vectors(y, violated)
        incidence = csr_array(
            (
                np.repeat(np.array([1, -1], np.float32), len(violated)),
                (np.r_[edges.head[violated], edges.tail[violated]], np.tile(np.arange(len(violated)), 2)),
            ),
            shape=(n, len(violated)),
        )
        n_violated = np.diff(incidence.indptr)
        push = (incidence @ change) / np.maximum(n_violated, 1).astype(np.float32)[:, None]
        push[~free] = 0
        y = y + push
        changed = _mark_ends(edges, violated, n)
        checked = np.flatnonzero(changed[edges.tail] | changed[edges.head])
    return y


def compute_moments(x: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """(d,) weighted means and standard deviations."""
    mean = mass @ x / mass.sum()
    return mean, np.sqrt(mass @ np.square(x - mean) / mass.sum())


def postscale(x: Floats, mass: Floats, mean: Floats, std: Floats) -> Floats:
    """Center and scale each dimension of `x` (n, d) to a mean and a standard deviation (d,), Eq. 16."""
    own_mean, own_std = compute_moments(x, mass)
    factor = np.divide(std, own_std, out=np.ones_like(std), where=own_std > 1e-6)
    return (x - own_mean) * factor + mean
