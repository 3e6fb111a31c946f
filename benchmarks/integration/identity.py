"""What a method must leave alone: cells without a batch effect, and rare types.

Usage: ``python -m benchmarks.integration.identity``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common import _methods
from benchmarks.common._data import BATCH_FILES, Cells, largest_batch, load_cells
from benchmarks.common._scores import label_accuracy, move, overlap
from benchmarks.common._tables import report, setting, table, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ("harmony", "muport")
SPLITS = {"1/2 1/2": (0.5, 0.5), ".6 .3 .1": (0.6, 0.3, 0.1), "5 x 1/5": (0.2,) * 5}
RARE, FEWEST = 0.005, 10
NOTE = """\
Harmony and muport at their defaults. *Identity*: the cells of one real batch (kang: one donor, one condition),
represented anew, are given random batches of the shares shown; mean move over the root mean square distance from
the mean, and share of 15 nearest neighbours kept.

*Rare types*: real batches with their batch effect; accuracy of a type = share of its cells whose 15 nearest
neighbours vote for it. "everywhere": the type cut to .5 % of every batch (where that leaves 10 cells or more in
each); "one batch": all its cells taken out of every batch but the one that has most.
"""


def integrate(method: str, cells: Cells) -> np.ndarray | None:
    """The method's coordinates, or None if it fails (the reason is printed)."""
    try:
        return _methods.load(method)(cells.X, cells.batch)
    except Exception as error:  # noqa: BLE001
        print(f"{method} on {cells.name} failed: {error!r}", flush=True)
        return None


def splits(name: str) -> Iterator[list[object]]:
    """Rows of the identity table: move and overlap of each method for each random split."""
    cells = largest_batch(name)
    for text, shares in SPLITS.items():
        rng = np.random.default_rng(0)
        batch = rng.choice(len(shares), size=len(cells.X), p=shares).astype(str)
        split = Cells(name, cells.X, batch, cells.label)
        found = [integrate(method, split) for method in METHODS]
        figures = [(move(cells.X, Z), overlap(cells.X, Z)) if Z is not None else (np.nan, np.nan) for Z in found]
        yield [name, len(cells.X), text, *(f[0] for f in figures), *(f[1] for f in figures)]


def rare_everywhere(cells: Cells, which: str) -> Cells | None:
    """``cells`` with type ``which`` cut to .5 % of each batch; None where too few are left."""
    rng, keep = np.random.default_rng(0), cells.label != which
    for batch in np.unique(cells.batch):
        own = np.flatnonzero((cells.batch == batch) & (cells.label == which))
        n_keep = round(RARE / (1 - RARE) * int((keep & (cells.batch == batch)).sum()))
        if n_keep < FEWEST or len(own) < n_keep:
            return None
        keep[rng.choice(own, n_keep, replace=False)] = True
    return cells.take(keep)


def one_batch(cells: Cells, which: str) -> Cells | None:
    """``cells`` with type ``which`` left only in the batch that has most; None where that is too few."""
    own = cells.label == which
    names, counts = np.unique(cells.batch[own], return_counts=True)
    if counts.max() < 2 * FEWEST or np.unique(cells.label).size < 3:
        return None
    return cells.take(~own | (cells.batch == names[counts.argmax()]))


def rare(name: str) -> Iterator[list[object]]:
    """Rows of the rare types' table: accuracy before and after, for each type and set-up."""
    cells = load_cells(name)
    for setup, cut in (("everywhere", rare_everywhere), ("one batch", one_batch)):
        for which in np.unique(cells.label):
            made = cut(cells, which)
            if made is None:
                continue
            found = [integrate(method, made) for method in METHODS]
            after = [label_accuracy(Z, made.label, which) if Z is not None else np.nan for Z in found]
            n_cells = int((made.label == which).sum())
            yield [setup, name, str(which), n_cells, label_accuracy(made.X, made.label, which), *after]


def verdicts(identity: list[list[object]], types: list[list[object]]) -> list[str]:
    """The targets: means for identity, and the worst type of each set-up."""
    figures = np.array([row[3:] for row in identity], float).reshape(-1, 2 * len(METHODS))
    lines = [
        verdict("mean move over RMS", float(figures[:, 1].mean()), 0.03, at_most=True),
        verdict("largest move over RMS", float(figures[:, 1].max()), 0.03, at_most=True),
        verdict("mean 15-NN overlap", float(figures[:, 3].mean()), 0.97),
        verdict("smallest 15-NN overlap", float(figures[:, 3].min()), 0.97),
    ]
    drops = defaultdict(list)
    for setup, name, which, _, before, _, after in types:
        drops[setup].append((after - before, f"{name} {which}"))
    for setup, several in drops.items():
        worst, which = min(several, key=lambda drop: np.nan_to_num(drop[0], nan=-np.inf))
        n_met = sum(drop >= -0.02 for drop, _ in several)
        lines.append(verdict(f"rare {setup}: worst change ({which}; {n_met} of {len(several)} meet it)", worst, -0.02))
    return lines


def main() -> None:
    """Run, print, and write the page when no data set was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=BATCH_FILES, default=list(BATCH_FILES))
    names = parser.parse_args().datasets
    identity = [row for name in names for row in splits(name)]
    types = sorted((row for name in names for row in rare(name)), key=lambda row: row[0])
    heads = [f"{what} {method}" for what in ("move", "overlap") for method in METHODS]
    parts = [
        NOTE,
        setting("harmonypy", "numpy", "scikit-learn"),
        "## Targets\n",
        *verdicts(identity, types),
        "\n## Identity\n",
        table(["cells of", "n", "split", *heads], identity),
        "## Rare types\n",
        table(["type in", "data set", "type", "cells", "before", *METHODS], types),
    ]
    report("identity", "Identity and rare types", parts, write=set(names) == set(BATCH_FILES))


if __name__ == "__main__":
    main()
