"""Simulated types that are shifted far in some batches, and types that are missing there: which find partners?

Usage: ``python -m benchmarks.integration.distant_types``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._data import Cells
from benchmarks.common._methods import load
from benchmarks.common._scores import kept_within_batches, neighbours, rms
from benchmarks.common._tables import report, setting, table, verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_TYPES = 8


@dataclass(frozen=True)
class Cohort:
    """What is simulated: types with a mean, a covariance and a proportion of their own, in some batches.

    - `shift`: Length of the shift of some types or of all, over the root mean square distance from the mean.
    - `shifted_in`: Batches in which they are shifted.
    - `shifted_types`: Types that are shifted; None for all.
    - `lacking`: (batch, type) that have no cells.
    - `near`: Pairs of types whose distance is a quarter of that of others.
    - `rare`: Proportion of the last type; None for that of the others.
    - `composition`: Parameter of the Dirichlet distribution of the proportions in a batch; a small one lets them differ.
    - `unlike`: How much the covariances of the types differ; 0 for not at all.
    - `continuum`: Whether the types are parts of a curve.
    """

    n_batches: int = 2
    shift: float = 0.0
    shifted_in: tuple[int, ...] = (1,)
    shifted_types: tuple[int, ...] | None = (0,)
    lacking: tuple[tuple[int, int], ...] = ()
    near: tuple[tuple[int, int], ...] = ()
    rare: float | None = None
    composition: float = 20.0
    unlike: float = 0.5
    continuum: bool = False
    n_cells: int = 2000
    shifts_of_batches: float = 0.3
    sizes: tuple[float, ...] = field(default=(1.0,) * N_TYPES)


def simulate(cohort: Cohort, n_axes: int, seed: int) -> tuple[Cells, NDArray[np.int64]]:
    """The cells, with the types as labels, and the type of each cell."""
    rng = np.random.default_rng(seed)
    spread = (1 + np.arange(n_axes)) ** -0.5
    center = rng.normal(size=(N_TYPES, n_axes)) * spread * 2.5
    if cohort.continuum:
        center = np.cumsum(rng.normal(size=(N_TYPES, n_axes)) * spread * 1.0, axis=0)
    for one, other in cohort.near:
        center[other] = center[one] + (center[other] - center[one]) / 4
    factor = []
    for _ in range(N_TYPES):
        rotation = np.linalg.qr(np.eye(n_axes) + 0.3 * cohort.unlike * rng.normal(size=(n_axes, n_axes)))[0]
        factor.append(rotation * (spread * np.exp(cohort.unlike * rng.normal(size=n_axes)))[None])
    batch = rng.integers(cohort.n_batches, size=cohort.n_cells)
    base = np.asarray(cohort.sizes) * rng.dirichlet(np.full(N_TYPES, 4.0))
    base = base / base.sum() * 0.7 + 0.3 / N_TYPES
    if cohort.rare is not None:
        base[-1] = 0
        base = np.append(base[:-1] / base.sum() * (1 - cohort.rare), cohort.rare)
    share = np.array([rng.dirichlet(cohort.composition * N_TYPES * base + 1e-3) for _ in range(cohort.n_batches)])
    for absent, kind in cohort.lacking:
        share[absent, kind] = 0
    share /= share.sum(axis=1, keepdims=True)
    kind = (rng.random(cohort.n_cells)[:, None] > share.cumsum(axis=1)[batch]).sum(axis=1).clip(max=N_TYPES - 1)
    noise = np.einsum("nij,nj->ni", np.array(factor)[kind], rng.normal(size=(cohort.n_cells, n_axes)))
    x = center[kind] + noise
    if cohort.continuum:
        x += (center[np.minimum(kind + 1, N_TYPES - 1)] - center[kind]) * rng.random((cohort.n_cells, 1))
    size = rms(x)
    way = rng.normal(size=(cohort.n_batches, 1, n_axes)) + 0.3 * rng.normal(size=(cohort.n_batches, N_TYPES, n_axes))
    x += cohort.shifts_of_batches * size / np.sqrt(np.square(spread).sum()) * (way * spread)[batch, kind]
    types = np.arange(N_TYPES) if cohort.shifted_types is None else np.array(cohort.shifted_types)
    moved = np.isin(batch, cohort.shifted_in) & np.isin(kind, types)
    direction = rng.normal(size=n_axes) * x.std(axis=0)
    x += cohort.shift * size * moved[:, None] * direction / np.linalg.norm(direction)
    names = np.char.mod("b%d", batch), np.char.mod("t%d", kind)
    return Cells("simulated", x.astype(np.float32), *names), kind
