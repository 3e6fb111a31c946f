"""How exactly a known shift is removed: one real batch split at random, and a shift added to one half or one type.

Usage: ``python -m benchmarks.integration.known_shift``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._data import BATCH_FILES, Cells, largest_batch
from benchmarks.common._scores import neighbours, rms
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.integration.identity import integrate

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("unintegrated", "harmony", "muport")
DATASETS = ("asap", "kang", "cellbench_5cl")
SHIFTS = (0.0, 0.06, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5)
STEPS = np.round(np.arange(0, 0.42, 0.02), 2)  # between which the error of muport must not jump
MOST, NEIGHBORS = 3000, 30
NOTE = """\
One real batch (kang: one donor, one condition), at most 3,000 cells, is split at random. A shift of s times the root
mean square distance from the mean (RMS), in a random direction in units of the coordinates' standard deviations, is
added to one half ("all cells"), or to the second most frequent type in one half ("one type"). Error: RMS difference
between the cells after the integration and the cells before the shift, over the RMS; a translation of all cells does
not count. A method that does nothing has s / 2. With one type the error cannot be 0: both halves of the type meet in
the middle. Mixing, of the type: the fraction of its 30 nearest neighbours that are of the type and of the other half,
over that expected by chance.
"""


def shifted(name: str, s: float, one_type: bool, seed: int = 0) -> tuple[Cells, Cells, str]:
    """The cells after and before the shift, with the halves as batches, and the type that is shifted."""
    cells, rng = largest_batch(name), np.random.default_rng(seed)
    cells = cells.take(np.sort(rng.permutation(len(cells.X))[:MOST]))
    half = rng.random(len(cells.X)) < 0.5
    way = rng.normal(size=cells.X.shape[1]) * cells.X.std(axis=0)
    types, counts = np.unique(cells.label, return_counts=True)
    which = str(types[np.argsort(-counts, kind="stable")[min(1, len(types) - 1)]])
    moved = half & (cells.label == which) if one_type else half
    x = cells.X + (s * rms(cells.X) / np.linalg.norm(way) * moved[:, None] * way).astype(np.float32)
    batch = np.where(half, "shifted", "kept")
    return Cells(name, x, batch, cells.label), Cells(name, cells.X, batch, cells.label), which


def error(before: Cells, z: NDArray[np.float32]) -> float:
    """RMS difference from the cells before the shift, over their RMS; a translation of all cells is left out."""
    return rms(z - before.X) / rms(before.X)


def mixing(before: Cells, z: NDArray[np.float32], which: str) -> float:
    """How well the halves of a type mix, 0 to about 1."""
    of_type = before.label == which
    near = neighbours(z, NEIGHBORS)[of_type]
    other = of_type[near] & (before.batch[near] != before.batch[of_type][:, None])
    share = np.mean(before.batch[of_type] == "kept")
    return float(other.mean() / (2 * share * (1 - share)))


def rows(name: str, one_type: bool) -> list[list[object]]:
    """A row for each shift: the error of each method and, for one type, its mixing."""
    found: list[list[object]] = []
    for s in SHIFTS:
        after, before, which = shifted(name, s, one_type)
        results = [integrate(method, after) for method in METHODS]
        errors = [np.nan if z is None else error(before, z) for z in results]
        mixed = [np.nan if z is None or not one_type else mixing(before, z, which) for z in results]
        found.append([name, which if one_type else "all cells", s, *errors, *(mixed if one_type else [])])
        print(*found[-1], flush=True)
    return found


def largest_step(name: str, one_type: bool) -> float:
    """The largest change of muport's error between neighbouring shifts."""
    errors = []
    for s in STEPS:
        after, before, _ = shifted(name, s, one_type)
        z = integrate("muport", after)
        errors.append(np.nan if z is None else error(before, z))
    return float(np.abs(np.diff(errors)).max())


def main() -> None:
    """Run, print, and write the page when no data set was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=BATCH_FILES, default=list(DATASETS))
    names = parser.parse_args().datasets
    whole, typed = ([row for name in names for row in rows(name, one_type)] for one_type in (False, True))
    lines = [
        verdict(
            "largest error, all cells shifted, s >= .5", max(r[5] for r in whole if r[2] >= 0.5), 0.06, at_most=True
        ),
        verdict("largest error over Harmony's, all cells", max(r[5] - r[4] for r in whole), 0.0, at_most=True),
        verdict("largest error over Harmony's, one type", max(r[5] - r[4] for r in typed), 0.0, at_most=True),
        verdict("smallest mixing of one type, .5 <= s <= 1", min(r[8] for r in typed if 0.5 <= r[2] <= 1), 0.9),
    ]
    for one_type, what in ((False, "all cells"), (True, "one type")):
        steps = max(largest_step(name, one_type) for name in names)
        lines.append(verdict(f"largest change of the error between s and s + .02, {what}", steps, 0.03, at_most=True))
    heads = ["data set", "shifted", "s", *(f"error {method}" for method in METHODS)]
    parts = [
        NOTE,
        setting("harmonypy", "numpy", "scikit-learn"),
        "## Targets\n",
        *lines,
        "\n## All cells of one half\n",
        table(heads, whole),
        "## One type of one half\n",
        table([*heads, *(f"mixing {method}" for method in METHODS)], typed),
    ]
    report("known_shift", "A known shift", parts, write=set(names) == set(DATASETS))


if __name__ == "__main__":
    main()
