"""Simulated types that are shifted far in some batches, and types that are missing there: which find partners?

The constants of the distant partners were chosen on these cells, so the page is no test of them.

Usage: ``python -m benchmarks.integration.distant_types``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._data import Cells
from benchmarks.common._scores import label_accuracy, neighbours, rms
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.integration.identity import integrate

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_TYPES, NEIGHBORS = 8, 20
METHODS = ("harmony", "muport")
NOTE = """\
2,000 simulated cells of 8 types with means, covariances and proportions of their own, in 10 to 50 axes (one number for
each seed). Mixing: of the shifted types, the fraction of the 20 nearest neighbours that are of the type and of the
other batches, over that expected by chance. Accuracy: of the type that is worst off, the share of its cells whose 15
nearest neighbours vote for it. Means of the seeds. The constants of the distant partners were chosen on these cells.
"""


@dataclass(frozen=True)
class Cohort:
    """What is simulated: types with a mean, a covariance and a proportion of their own, in some batches.

    - `shift`: Length of the shift of some types or of all, over the root mean square distance from the mean.
    - `shifted_in`: Batches in which they are shifted.
    - `shifted_types`: Types that are shifted; None for all.
    - `lacking`: (batch, type) that have no cells.
    - `near`: Pairs of types whose distance is a quarter of that of others.
    - `rare`: Proportion of the last type; None for that of the others.
    - `composition`: Parameter of the Dirichlet distribution of the proportions of a batch; small: they differ.
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
    sizes: tuple[float, ...] = (1.0,) * N_TYPES


def simulate(cohort: Cohort, n_axes: int, seed: int) -> Cells:
    """The cells, with the types as labels."""
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
    return Cells("simulated", x.astype(np.float32), *names)


CROSSED = ((0, 0), (1, 1))
COHORTS = {
    "no large shift": Cohort(),
    "no large shift, compositions differ": Cohort(composition=2.0),
    "all cells, 2.5": Cohort(shift=2.5, shifted_types=None),
    "one type, .75": Cohort(shift=0.75),
    "one type, 1": Cohort(shift=1.0),
    "one type, 1.25": Cohort(shift=1.25),
    "one type, 1, compositions differ": Cohort(shift=1.0, composition=3.0),
    "one type, 1, in 1 of 4 batches": Cohort(shift=1.0, n_batches=4),
    "one type, 1, in 2 of 4 batches": Cohort(shift=1.0, n_batches=4, shifted_in=(1, 2)),
    "two types, 1": Cohort(shift=1.0, shifted_types=(0, 1)),
    "one type, 1, others missing": Cohort(shift=1.0, lacking=((0, 2), (1, 3))),
    "each batch lacks a type": Cohort(lacking=CROSSED),
    "each batch lacks a type, equal covariances": Cohort(lacking=CROSSED, unlike=0.0),
    "each batch lacks two types": Cohort(lacking=(*CROSSED, (0, 2), (1, 3))),
    "each batch lacks a near type": Cohort(lacking=CROSSED, near=((0, 1),)),
    "one batch lacks a rare type": Cohort(lacking=((0, 7),), rare=0.01),
    "curve, each batch lacks an end": Cohort(continuum=True, composition=3.0, lacking=((0, 0), (1, 7))),
}


def mixing(cells: Cells, cohort: Cohort, z: NDArray[np.float32]) -> float:
    """How well the shifted cells of the shifted types mix with the others, 0 to about 1."""
    kinds = range(N_TYPES) if cohort.shifted_types is None else cohort.shifted_types
    near, moved = neighbours(z, NEIGHBORS), np.isin(cells.batch, np.char.mod("b%d", cohort.shifted_in))
    mixed = []
    for label in np.char.mod("t%d", kinds):
        own = cells.label == label
        share = moved[own].mean()
        if 0 < share < 1:
            other = own[near[own]] & (moved[near[own]] != moved[own][:, None])
            mixed.append(other.mean() / (2 * share * (1 - share)))
    return float(np.mean(mixed))


def rows(name: str, seeds: int) -> list[object]:
    """Mixing and accuracy of each method, means of the seeds."""
    cohort, mixed, right = COHORTS[name], [], []
    for seed in range(seeds):
        cells = simulate(cohort, (10, 20, 30, 50)[seed % 4], seed)
        found = [integrate(method, cells) for method in METHODS]
        mixed.append([mixing(cells, cohort, z) if z is not None and cohort.shift else np.nan for z in found])
        labels = np.unique(cells.label)
        right.append(
            [np.nan if z is None else min(label_accuracy(z, cells.label, label) for label in labels) for z in found]
        )
    row = [name, *np.mean(mixed, axis=0), *np.mean(right, axis=0)]
    print(*row, flush=True)
    return row


def main() -> None:
    """Run, print, and write the page when all seeds were run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    seeds = parser.parse_args().seeds
    found = [rows(name, seeds) for name in COHORTS]
    line = verdict("smallest mean mixing of shifted types", float(np.nanmin([row[2] for row in found])), 0.9)
    heads = ["cells", *(f"{what} {method}" for what in ("mixing", "accuracy") for method in METHODS)]
    parts = [NOTE, setting("harmonypy", "numpy"), "## Targets\n", line, "\n## Figures\n", table(heads, found)]
    report("distant_types", "Types that are shifted far", parts, write=seeds == 4)


if __name__ == "__main__":
    main()
