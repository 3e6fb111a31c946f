"""How far the scBIOT paper lets a cell move: step cap, edge guard and PostScale, Eqs 14-16."""

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

__all__ = ["Edges", "capped", "guarded", "make_edges", "moments", "postscale"]

_PUSHES = 10  # rounds in which the guard pushes points apart or together
_MARGIN = 0.02  # inside the limits, where it pushes them
_HALVINGS = 8  # rounds in which it halves moves before it stops them
_ROUNDS = 100  # most rounds of the guard
_ROUNDING = 1e-5


def capped(shift: Floats, limit: Floats) -> Floats:
    """Shorten the rows of `shift` (n, d) that are longer than `limit` (n,), Eq. 14."""
    length = np.linalg.norm(shift, axis=1)
    share = np.divide(limit, length, out=np.ones_like(length), where=length > limit)
    return shift * share[:, None]


@dataclass(frozen=True, eq=False)
class Edges:
    """Undirected edges of the input's neighbour graph that have a length.

    Attributes
    ----------
    tail, head
        (E,) their ends.
    length
        (E,) their lengths in the input.
    part
        (n,) connected component of each point.
    """

    tail: Indices
    head: Indices
    length: Floats
    part: Indices

    def steps(self, x: Floats, edges: Indices | slice = slice(None)) -> Floats:
        """(E, d) vectors from tail to head."""
        out: Floats = x[self.head[edges]]
        out -= x[self.tail[edges]]
        return out

    def ratio(self, x: Floats, edges: Indices | slice = slice(None)) -> Floats:
        """(E,) lengths relative to those in the input."""
        step = self.steps(x, edges)
        out: Floats = np.sqrt(np.einsum("ed,ed->e", step, step)) / self.length[edges]
        return out


def make_edges(graph: Neighbors) -> Edges:
    """Edges of a neighbour graph; duplicates have no length that could be stretched, and no edge."""
    n, k = graph.indices.shape
    tail, head, length = np.repeat(np.arange(n), k), graph.indices.ravel(), graph.distances.ravel()
    _, part = connected_components(csr_array((np.ones(n * k), (tail, head)), shape=(n, n)), directed=False)
    low, high = np.minimum(tail, head), np.maximum(tail, head)
    _, once = np.unique(low * n + high, return_index=True)
    once = once[length[once] > 0]
    return Edges(low[once], high[once], length[once], part.astype(np.int64))


def guarded(x: Floats, move: Floats, edges: Edges, low: Floats, high: Floats, free: NDArray[np.bool_]) -> Floats:
    """(n, d) moves near the given ones under which every edge keeps to its limits, Eq. 15.

    Ends of edges that break their limits are first pushed along them.  Where this does not suffice, moves are halved
    toward the mean move of the connected component, in which no length changes, until all limits are met.  The
    limits vary with beta: an edge that lies outside already may stay as it is but not go farther.

    Parameters
    ----------
    x
        (n, d) points.
    move
        (n, d) their moves.
    edges
        Edges of the input's graph.
    low, high
        (n,) limits of the relative length of the edges at each point.
    free
        (n,) points that may move.
    """
    now = edges.ratio(x)
    least = np.minimum(np.maximum(low[edges.tail], low[edges.head]), now * (1 - _ROUNDING))
    most = np.maximum(np.minimum(high[edges.tail], high[edges.head]), now * (1 + _ROUNDING))
    move = _projected(x + move, edges, least, most, free) - x
    common = _rigid(move, edges.part, free)
    own = move - common
    share = np.ones((len(x), 1), np.float32)
    watched: Indices = np.arange(len(now))
    for rounds in range(_ROUNDS):
        ratio = edges.ratio(x + common + share * own, watched)
        bad = watched[(ratio < least[watched]) | (ratio > most[watched])]
        if not len(bad):
            return common + share * own
        changed = _ends(edges, bad, len(x))
        share[changed] *= np.float32(0.5 if rounds < _HALVINGS else 0)
        watched = np.flatnonzero(changed[edges.tail] | changed[edges.head])
    return common


def _ends(edges: Edges, chosen: Indices, n: int) -> NDArray[np.bool_]:
    out = np.zeros(n, bool)
    out[edges.tail[chosen]] = out[edges.head[chosen]] = True
    return out


def _rigid(move: Floats, part: Indices, free: NDArray[np.bool_]) -> Floats:
    """(n, d) mean move of each point's component; 0 where a point of it may not move."""
    n = len(part)
    member = csr_array((np.ones(n, np.float32), part, np.arange(n + 1)), shape=(n, int(part.max()) + 1))
    mean = (member.T @ move) / np.bincount(part)[:, None]
    mean[np.unique(part[~free])] = 0
    out: Floats = mean[part].astype(np.float32)
    return out


def _projected(y: Floats, edges: Edges, least: Floats, most: Floats, free: NDArray[np.bool_]) -> Floats:
    """Points (n, d) after rounds in which each moves by the mean of what its edges outside their limits ask for."""
    n, watched = len(y), np.arange(len(edges.length))
    for _ in range(_PUSHES):
        ratio = edges.ratio(y, watched)
        bad = np.flatnonzero((ratio < least[watched]) | (ratio > most[watched]))
        if not len(bad):
            break
        chosen, ratio = watched[bad], ratio[bad]
        goal = np.clip(ratio, least[chosen] * (1 + _MARGIN), most[chosen] * (1 - _MARGIN))
        change = (0.5 * (goal / np.maximum(ratio, _MARGIN) - 1))[:, None] * edges.steps(y, chosen)
        both = csr_array(
            (
                np.repeat(np.array([1, -1], np.float32), len(chosen)),
                (np.r_[edges.head[chosen], edges.tail[chosen]], np.tile(np.arange(len(chosen)), 2)),
            ),
            shape=(n, len(chosen)),
        )
        number = np.diff(both.indptr)
        push = (both @ change) / np.maximum(number, 1).astype(np.float32)[:, None]
        push[~free] = 0
        y = y + push
        changed = _ends(edges, chosen, n)
        watched = np.flatnonzero(changed[edges.tail] | changed[edges.head])
    return y


def moments(x: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """(d,) weighted means and standard deviations."""
    mean = mass @ x / mass.sum()
    return mean, np.sqrt(mass @ np.square(x - mean) / mass.sum())


def postscale(x: Floats, mass: Floats, mean: Floats, std: Floats) -> Floats:
    """Recentre and rescale each dimension of `x` (n, d) to a mean and a standard deviation (d,), Eq. 16."""
    own_mean, own_std = moments(x, mass)
    factor = np.divide(std, own_std, out=np.ones_like(std), where=own_std > 1e-6)
    return (x - own_mean) * factor + mean
