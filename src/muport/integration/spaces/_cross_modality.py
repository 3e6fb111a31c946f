"""How one modality tells another: through cells that have both, and through a space that all share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.prototypes._standardized_cells import measure_scale
from muport.integration.spaces._ridge_regression import Regressor, common_rows, fit_regressor, ordered, regress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Helped", "Routes", "Shared", "account", "filled", "fit_routes", "spread_shared"]

_FEW = 20  # paired cells below which nothing is learnt from them beside a shared space
_LEAST = 1e-6  # quality of a route that explains nothing


@dataclass(frozen=True, eq=False)
class Helped:
    """How a modality tells another where shared coordinates are known.

    Attributes
    ----------
    base
        1 if what the shared coordinates tell is taken first, and the regression tells the rest; otherwise 0.
    regressor
        Regression on own and shared coordinates; None if there are too few paired cells.
    explained
        Share of variance that is predicted on held-out paired cells.
    """

    base: float
    regressor: Regressor | None
    explained: float


@dataclass(frozen=True, eq=False)
class Shared:
    """The shared space's part.

    Attributes
    ----------
    center, scale
        Modality -> (d_s,) mean of its shared coordinates, and root mean square distance to it.
    own
        Modality -> regression of its own representation on its shared coordinates.
    helped
        Source -> target -> route.
    """

    center: dict[str, NDArray[np.float32]]
    scale: dict[str, float]
    own: dict[str, Regressor]
    helped: dict[str, dict[str, Helped]]


@dataclass(frozen=True, eq=False)
class Routes:
    """Routes between modalities.

    Attributes
    ----------
    plain
        Source -> target -> regression fitted on the cells that have both.
    paths
        Source -> target -> modalities to pass, the target last.
    shared
        What a shared space adds; None without one.
    """

    plain: dict[str, dict[str, Regressor]]
    paths: dict[str, dict[str, tuple[str, ...]]]
    shared: Shared | None


def fit_routes(
    x: Mapping[str, NDArray[np.float32]],
    cell: Mapping[str, NDArray[np.int64]],
    n_cells: int,
    shared: Mapping[str, NDArray[np.float32]] | None,
    seed: int,
) -> Routes:
    """Fit all routes.

    Parameters
    ----------
    x
        Modality -> (n_m, d_m) standardised coordinates.
    cell
        Modality -> (n_m,) position of each row among the cells.
    n_cells
        Number of cells.
    shared
        Modality -> (n_m, d_s) shared coordinates.
    seed
        Seed of landmarks and subsamples.

    Raises
    ------
    ValueError
        If a modality cannot be reached from another and there is no shared space.
    """
    pairs = {(b, m): common_rows(x, cell, b, m, n_cells) for b, m in permutations(x, 2)}
    plain: dict[str, dict[str, Regressor]] = {b: {} for b in x}
    for (b, m), (rows, others) in pairs.items():
        if len(rows):
            plain[b][m] = fit_regressor(x[b][rows], x[m][others], seed)
    paths = _paths(plain)
    missing = [(b, m) for b, m in pairs if m not in paths[b]]
    if missing and not shared:
        b, m = missing[0]
        raise ValueError(f"no chain of paired cells leads from {b!r} to {m!r}: give coordinates that all share.")
    return Routes(plain, paths, _fit_shared(x, shared, pairs, plain, seed) if shared else None)


def _paths(plain: Mapping[str, Mapping[str, Regressor]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Best chain of routes between any two modalities, by the product of what the routes explain."""
    quality = {(b, m): max(one.explained, _LEAST) for b, those in plain.items() for m, one in those.items()}
    paths: dict[str, dict[str, tuple[str, ...]]] = {b: {m: (m,) for m in those} for b, those in plain.items()}
    for via in plain:
        for b, m in permutations(plain, 2):
            detour = quality.get((b, via), 0.0) * quality.get((via, m), 0.0) if via not in (b, m) else 0.0
            # a route of its own wins unless it tells nothing
            if detour > quality.get((b, m), 0.0) and (m not in plain[b] or quality[b, m] <= _LEAST):
                quality[b, m] = detour
                paths[b][m] = (*paths[b][via], *paths[via][m])
    return paths


def _fit_shared(
    x: Mapping[str, NDArray[np.float32]],
    shared: Mapping[str, NDArray[np.float32]],
    pairs: Mapping[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]],
    plain: Mapping[str, Mapping[str, Regressor]],
    seed: int,
) -> Shared:
    order = {m: ordered(shared[m]) for m in x}
    center = {m: shared[m][order[m]].mean(axis=0, dtype=np.float64).astype(np.float32) for m in x}
    scale = {m: measure_scale((shared[m] - center[m])[order[m]], float(np.abs(center[m]).max(initial=0))) for m in x}
    s = {m: _unit(shared[m], center[m], scale[m]) for m in x}
    own = {}
    for m in x:
        rank = ordered(s[m], x[m])
        own[m] = fit_regressor(s[m][rank], x[m][rank], seed)
    helped: dict[str, dict[str, Helped]] = {b: {} for b in x}
    for (b, m), (rows, others) in pairs.items():
        helped[b][m] = _help(x[b][rows], s[b][rows], x[m][others], own[m], plain[b].get(m), seed)
    return Shared(center, scale, own, helped)


def _help(
    x: NDArray[np.float32],
    s: NDArray[np.float32],
    y: NDArray[np.float32],
    own: Regressor,
    plain: Regressor | None,
    seed: int,
) -> Helped:
    """The best on held-out paired cells of: shared coordinates and what they leave, both at once, own ones alone."""
    if len(x) < _FEW or plain is None:
        return Helped(1.0, None, own.explained / 2)
    left = y - regress(s, own)
    both = np.concatenate([x, s], axis=1)
    # own coordinates alone are the regression on both with the shared ones at zero: `account` falls back to them
    first, second = fit_regressor(both, left, seed), fit_regressor(both, y, seed)
    part = float(left.var(axis=0).sum() / max(y.var(axis=0).sum(), np.finfo(np.float32).tiny))
    found = (Helped(1.0, first, 1 - part * (1 - first.explained)), Helped(0.0, second, second.explained))
    return max(found, key=lambda one: one.explained)


def spread_shared(
    routes: Routes, shared: Mapping[str, NDArray[np.float32]], cell: Mapping[str, NDArray[np.int64]], n_cells: int
) -> dict[str, NDArray[np.float32]] | None:
    """Modality -> (n_cells, d_s) standardised shared coordinates; where a cell lacks the modality, those of others."""
    if routes.shared is None:
        return None
    fitted = routes.shared
    width = len(next(iter(fitted.center.values())))
    total, number = np.zeros((n_cells, width), np.float32), np.zeros((n_cells, 1), np.float32)
    held = {m: np.zeros(n_cells, bool) for m in fitted.center}
    out = {m: np.zeros((n_cells, width), np.float32) for m in fitted.center}
    for m, coordinates in shared.items():
        out[m][cell[m]] = _unit(coordinates, fitted.center[m], fitted.scale[m])
        held[m][cell[m]] = True
        total += out[m]
        number += held[m][:, None]
    total /= np.maximum(number, 1)
    return {m: np.where(held[m][:, None], out[m], total) for m in fitted.center}


def _unit(x: NDArray[np.float32], center: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    return np.ascontiguousarray((x - center) / np.float32(scale), np.float32)


def account(
    routes: Routes,
    source: str,
    target: str,
    x: NDArray[np.float32],
    s: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """(n, d_target) what cells (n, d_source), with shared coordinates (n, d_s) if known, would hold of the target."""
    if s is not None and routes.shared is not None:
        helped = routes.shared.helped[source][target]
        first = regress(s, routes.shared.own[target]) if helped.base else np.float32(0)
        rest = regress(np.concatenate([x, s], axis=1), helped.regressor) if helped.regressor else np.float32(0)
        return np.asarray(first + rest, np.float32)
    if target not in routes.paths[source]:
        return np.zeros((len(x), _width(routes, target)), np.float32)
    told = x
    for via in routes.paths[source][target]:
        told = regress(told, routes.plain[source][via])
        source = via
    return told


def _width(routes: Routes, modality: str) -> int:
    assert routes.shared is not None, "without a shared space every modality is reached"
    return len(routes.shared.own[modality].mean)


def _quality(routes: Routes, source: str, target: str, *, with_shared: bool) -> float:
    if with_shared and routes.shared is not None:
        return max(routes.shared.helped[source][target].explained, _LEAST)
    quality = 1.0
    for via in routes.paths[source].get(target, ()):
        quality *= routes.plain[source][via].explained
        source = via
    return max(quality, _LEAST) if target in (source,) else _LEAST


def filled(
    routes: Routes,
    x: Mapping[str, NDArray[np.float32]],
    s: Mapping[str, NDArray[np.float32]] | None,
    observed: Mapping[str, NDArray[np.bool_]],
) -> dict[str, NDArray[np.float32]]:
    """Coordinates of all modalities: what a cell lacks is the mean of what its modalities tell, by their quality."""
    out: dict[str, NDArray[np.float32]] = {}
    for m, mine in x.items():
        total = np.zeros((len(mine), 1), np.float32)
        told = np.zeros_like(mine)
        for b in x:
            rows = np.flatnonzero(observed[b] & ~observed[m])
            if b == m or not len(rows):
                continue
            quality = np.float32(_quality(routes, b, m, with_shared=s is not None))
            told[rows] += quality * account(routes, b, m, x[b][rows], None if s is None else s[b][rows])
            total[rows] += quality
        told /= np.maximum(total, np.finfo(np.float32).tiny)
        out[m] = np.where(observed[m][:, None], mine, told)
    return out
