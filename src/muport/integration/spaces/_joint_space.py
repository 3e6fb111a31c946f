"""One space for cells measured in several modalities: each modality's account of a cell, averaged by its weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.prototypes._standardized_cells import measure_scale
from muport.integration.spaces._cross_modality import Routes, account, filled, fit_routes, spread_shared
from muport.integration.spaces._held_out_pairs import shared_part
from muport.integration.spaces._modality_weights import (
    Weights,
    fit_weights,
    flat_weights,
    local_weights,
    told_by_modality,
)
from muport.integration.spaces._ridge_regression import ordered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["ACCOUNT", "Embedded", "JointSpace", "embed", "fit_joint", "latent", "scalings", "split", "standardised"]

_BLOCK = 2**14  # cells embedded together
_SHARED = 0.01, 0.9  # least and most part of the shared coordinates in the squared distances
ACCOUNT = 1 / 3  # weight of what is told of coordinates, over that of their own measurement


@dataclass(frozen=True, eq=False)
class JointSpace:
    """Joint space of M modalities; its size does not grow with the cells.

    Attributes
    ----------
    modalities
        Names, in the order of the coordinates' blocks.
    center, scale
        Modality -> (d_m,) mean and root mean square distance to it, by which its coordinates are standardised.
    routes
        How each modality tells the others.
    weights
        How much each modality is believed.
    beside
        Scale of the shared coordinates that stand beside those of the modalities; 0 where they do not.
    """

    modalities: tuple[str, ...]
    center: dict[str, NDArray[np.float32]]
    scale: dict[str, float]
    routes: Routes
    weights: Weights
    beside: float = 0.0

    @property
    def starts(self) -> tuple[int, ...]:
        """First columns of the spaces in it: all of it, and the shared coordinates if they stand beside."""
        return (0, sum(len(one) for one in self.center.values())) if _width_beside(self) else (0,)


@dataclass(frozen=True, eq=False)
class Embedded:
    """Cells in the joint space.

    Attributes
    ----------
    z
        (n, D) float32, D the sum of the modalities' widths, and of the shared coordinates' where they stand beside.
    weights
        (n, M) float32 share of each modality that the cell was measured in; rows sum to 1.
    observed
        (n, M) whether the cell was measured in it.
    """

    z: NDArray[np.float32]
    weights: NDArray[np.float32]
    observed: NDArray[np.bool_]


def fit_joint(
    views: Mapping[str, NDArray[np.float32]],
    cell: Mapping[str, NDArray[np.int64]],
    batch: NDArray[np.int64],
    *,
    shared: Mapping[str, NDArray[np.float32]] | None = None,
    random_state: int = 0,
) -> JointSpace:
    """Fit the joint space of modalities that have cells in common.

    Parameters
    ----------
    views
        Modality -> (n_m, d_m) its own representation.
    cell
        Modality -> (n_m,) position of each row among the cells; a cell in several modalities is paired.
    batch
        (n_cells,) codes.
    shared
        Modality -> (n_m, d_s) coordinates in a space that all share; they help the cells that lack a modality, and if
        there are such cells, stand beside the others by how well held-out pairs meet in them (:func:`shared_part`).
    random_state
        Seed.

    Raises
    ------
    ValueError
        If there is one modality, or one that no chain of common cells joins to the others without `shared`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(90, 3)).astype(np.float32)
    >>> y = (x @ rng.normal(size=(3, 4))).astype(np.float32)
    >>> cells = np.arange(90)
    >>> space = fit_joint({"rna": x, "atac": y}, {"rna": cells, "atac": cells}, np.zeros(90, np.int64))
    >>> embed(space, {"rna": x}, {"rna": cells}, 90).z.shape
    (90, 7)
    """
    names = tuple(views)
    if len(names) < 2:
        raise ValueError(f"a joint space needs at least two modalities, but there is only {list(names)}.")
    center, scale = scalings(views)
    x = {m: standardised(views[m], center[m], scale[m]) for m in names}
    routes = fit_routes(x, cell, len(batch), shared, random_state)
    told, usual = told_by_modality(x, cell, batch, random_state)
    space = JointSpace(names, center, scale, routes, flat_weights(usual, sum(one.shape[1] for one in x.values())))
    rows = np.flatnonzero(np.isfinite(told).any(axis=1))
    z = embed(space, *_subset(views, cell, rows, len(batch)), shared=_subset(shared or {}, cell, rows, len(batch))[0]).z
    rank = ordered(z)
    space = replace(space, weights=fit_weights(z[rank], told[rows][rank], usual, random_state))
    if not shared or all(len(one) == len(batch) for one in cell.values()):
        return space
    part = np.clip(_part_of_shared(space, x, cell, len(batch), shared, random_state), *_SHARED)
    square = np.square(z[rank] - z[rank].mean(axis=0)).sum(axis=1).mean()
    return replace(space, beside=float(np.sqrt(part / (1 - part) * square)))


def embed(
    space: JointSpace,
    views: Mapping[str, NDArray[np.float32]],
    cell: Mapping[str, NDArray[np.int64]],
    n_cells: int,
    *,
    shared: Mapping[str, NDArray[np.float32]] | None = None,
) -> Embedded:
    """Place cells in the joint space: a function of each cell alone.

    A modality b tells what each modality m would hold, P_bm(x_b), with P_mm the identity; what a cell lacks is told by
    what it has. Then z_m = w_m x_m + (sum over b != m of w_b P_bm(x_b)) / 3, the weights w those of the place in the
    space. Accounts take noise away, and with it what one modality alone can tell: so they count less than measurements.

    Parameters
    ----------
    space
        The fitted space.
    views
        Modality -> (n_m, d_m) own representations, of any of the space's modalities.
    cell
        Modality -> (n_m,) position of each row among the cells.
    n_cells
        Number of cells.
    shared
        As in :func:`fit_joint`; without it, what a cell lacks is told by paired cells alone.

    Raises
    ------
    ValueError
        If a modality is unknown, or its width is not that of the fit.
    """
    _check(space, views)
    observed = np.zeros((n_cells, len(space.modalities)), bool)
    x: dict[str, NDArray[np.float32]] = {}
    for i, m in enumerate(space.modalities):
        x[m] = np.zeros((n_cells, len(space.center[m])), np.float32)
        if m in views:
            observed[cell[m], i] = True
            x[m][cell[m]] = standardised(views[m], space.center[m], space.scale[m])
    s = spread_shared(space.routes, shared, cell, n_cells) if shared else None
    width = sum(one.shape[1] for one in x.values())
    z, weight = np.zeros((n_cells, width + _width_beside(space)), np.float32), observed.astype(np.float32)
    for low in range(0, n_cells, _BLOCK):
        rows = slice(low, low + _BLOCK)
        part = None if s is None else {m: one[rows] for m, one in s.items()}
        z[rows, :width], local = _fused(space, {m: one[rows] for m, one in x.items()}, part, observed[rows])
        weight[rows] *= np.maximum(local, np.finfo(np.float32).tiny)
    if s is not None and space.beside:
        z[:, width:] = np.float32(space.beside) * _met(s, observed)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return Embedded(z, weight, observed)


def latent(space: JointSpace, y: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the user gets of integrated cells (n, D): themselves, for the weights are in the coordinates.

    Parameters
    ----------
    space
        The fitted space.
    y
        (n, D) cells after the transport.
    weights
        (n, M) as :func:`embed` gives them.
    """
    return y


def split(space: JointSpace, y: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Cells (n, D) of the joint space as every modality's representation (n, d_m), in its own coordinates.

    What one modality measures and no other tells is shrunk by the modality's weight, as noise would be.
    """
    bounds = np.cumsum([0, *(len(space.center[m]) for m in space.modalities)])
    # what all modalities tell alike is this share of itself in the space
    told = space.weights.usual + np.float32(ACCOUNT) * (1 - space.weights.usual)
    scale = [np.float32(space.scale[m]) / share for m, share in zip(space.modalities, told, strict=True)]
    return {
        m: np.ascontiguousarray(y[:, low:high] * one + space.center[m], np.float32)
        for m, one, low, high in zip(space.modalities, scale, bounds[:-1], bounds[1:], strict=True)
    }


def _part_of_shared(
    space: JointSpace,
    x: dict[str, NDArray[np.float32]],
    cell: Mapping[str, NDArray[np.int64]],
    n_cells: int,
    shared: Mapping[str, NDArray[np.float32]],
    seed: int,
) -> float:
    """Part of the shared coordinates in the squared distances."""

    def placing(
        apart: Mapping[str, NDArray[np.int64]],
        first: tuple[str, NDArray[np.int64]],
        second: tuple[str, NDArray[np.int64]],
    ) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
        n = len(first[1])
        routes = fit_routes(x, apart, n_cells + n_cells, shared, seed)
        held = {first[0]: (slice(0, n), first[1]), second[0]: (slice(n, 2 * n), second[1])}
        alone = {m: np.zeros((2 * n, one.shape[1]), np.float32) for m, one in x.items()}
        observed = np.zeros((2 * n, len(space.modalities)), bool)
        for m, (part, chosen) in held.items():
            alone[m][part] = x[m][chosen]
            observed[part, space.modalities.index(m)] = True
        at = {m: np.arange(2 * n)[part] for m, (part, _) in held.items()}
        s = spread_shared(routes, {m: shared[m][chosen] for m, (_, chosen) in held.items()}, at, 2 * n)
        assert s is not None, "the routes were fitted with the shared coordinates"
        z, met = _fused(replace(space, routes=routes), alone, s, observed)[0], _met(s, observed)
        return (z[:n], z[n:]), (met[:n], met[n:])

    return shared_part(x, cell, n_cells, placing)


def _met(s: Mapping[str, NDArray[np.float32]], observed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, d_s) mean of the shared coordinates of the modalities a cell is in."""
    total = np.add.reduce([one * observed[:, [i]] for i, one in enumerate(s.values())])
    mean: NDArray[np.float32] = total / np.maximum(observed.sum(axis=1, keepdims=True), 1).astype(np.float32)
    return mean


def _width_beside(space: JointSpace) -> int:
    if not space.beside or space.routes.shared is None:
        return 0
    return len(next(iter(space.routes.shared.center.values())))


def _fused(
    space: JointSpace,
    x: dict[str, NDArray[np.float32]],
    s: dict[str, NDArray[np.float32]] | None,
    observed: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n, D) joint coordinates and (n, M) weights of standardised cells."""
    names = space.modalities
    x = filled(space.routes, x, s, {m: observed[:, i] for i, m in enumerate(names)})
    told = {
        (b, m): x[m] if b == m else account(space.routes, b, m, x[b], None if s is None else s[b])
        for b, m in product(names, repeat=2)
    }
    start = np.broadcast_to(space.weights.usual, observed.shape)
    weight = local_weights(_joined(told, start, names), space.weights)
    return _joined(told, weight, names), weight


def _joined(
    told: dict[tuple[str, str], NDArray[np.float32]], weight: NDArray[np.float32], names: tuple[str, ...]
) -> NDArray[np.float32]:
    z = np.concatenate([np.zeros_like(told[m, m]) for m in names], axis=1)
    low = 0
    for m in names:
        block = z[:, low : low + told[m, m].shape[1]]
        for i, b in enumerate(names):
            block += weight[:, [i]] * (told[b, m] if b == m else np.float32(ACCOUNT) * told[b, m])
        low += block.shape[1]
    return z


def scalings(
    views: Mapping[str, NDArray[np.float32]],
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Each modality's mean, and its root mean square distance to it."""
    found = {m: _scaling(x) for m, x in views.items()}
    return {m: one[0] for m, one in found.items()}, {m: one[1] for m, one in found.items()}


def _scaling(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Mean and root mean square distance to it, summed in an order that does not depend on that of the cells."""
    rows = x[ordered(x)]
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return center, measure_scale(rows - center, float(np.abs(center).max(initial=0)))


def standardised(x: NDArray[np.float32], center: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    return np.ascontiguousarray((x - center) / np.float32(scale), np.float32)


def _subset(
    views: Mapping[str, NDArray[np.float32]], cell: Mapping[str, NDArray[np.int64]], rows: NDArray[np.int64], n: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]], int]:
    """Views of some cells, where they stand among those, and their number."""
    position = np.full(n, -1)
    position[rows] = np.arange(len(rows))
    held = {m: position[cell[m]] >= 0 for m in views}
    return {m: x[held[m]] for m, x in views.items()}, {m: position[cell[m]][held[m]] for m in views}, len(rows)


def _check(space: JointSpace, views: Mapping[str, NDArray[np.float32]]) -> None:
    for m, x in views.items():
        if m not in space.center:
            raise ValueError(f"modality {m!r} is not in the joint space, which holds {list(space.modalities)}.")
        if x.shape[1] != len(space.center[m]):
            raise ValueError(f"{m!r} has {x.shape[1]} coordinates, but the joint space has {len(space.center[m])}.")
