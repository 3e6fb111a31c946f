"""Time and memory on synthetic cells.

Usage: ``python -m benchmarks.integration.scale [--cases ...]``.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._data import synthetic
from benchmarks.common._measure import Measure, measure, median_measure
from benchmarks.common._tables import report, setting, table, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CASES = {
    "20k": (20_000, 8, ("harmony", "muport", "scbiot")),
    "200k": (200_000, 8, ("harmony", "muport")),
    "100 batches": (40_000, 100, ("harmony", "muport")),
}
SLOW_LIMIT = 240.0
NOTE = """\
Synthetic cells of 12 types in 50 dimensions, float32, methods at their defaults. Medians of three fresh processes
of two threads; scBIOT once, for at most 240 seconds. Seconds: the method's call; "first call": the same on 600 cells
before it (lazy imports, compilers), which is left out of both figures. Memory: peak resident memory above that after
import and first call, the input included, as a multiple of the input's bytes.
"""


def run(case: str) -> dict[str, tuple[Measure, float]]:
    """Each method's measure and its peak as a multiple of the embedding's bytes."""
    n_cells, n_batches, methods = CASES[case]
    cells = synthetic(n_cells, n_batches)
    out = {}
    for method in methods:
        slow = method == "scbiot"
        found = measure(method, cells, timeout=SLOW_LIMIT) if slow else median_measure(method, cells)
        out[method] = (found, found.peak / cells.X.nbytes)
        print(case, method, f"{found.seconds:.2f} s, {out[method][1]:.1f}x", found.error, flush=True)
    return out


def ratio(results: Mapping[str, Mapping[str, tuple[Measure, float]]], case: str, over: str, under: str) -> float:
    """Seconds of ``over`` in those of ``under``."""
    found = results.get(case, {})
    if over not in found or under not in found:
        return math.nan
    return found[over][0].seconds / found[under][0].seconds


def verdicts(results: Mapping[str, Mapping[str, tuple[Measure, float]]]) -> list[str]:
    """The targets."""
    peaks = [found["muport"][1] for found in results.values()]
    times = [
        ("20k", "at 20,000 cells", 2.0),
        ("200k", "at 200,000 cells", 1.0),
        ("100 batches", "with 100 batches", 2.0),
    ]
    lines = [
        verdict(
            f"time over harmonypy's {text}", ratio(results, case, "muport", "harmony"), bound, at_most=True, digits=2
        )
        for case, text, bound in times
    ]
    speed = ratio(results, "20k", "scbiot", "muport")
    lines.append(verdict("times faster than scBIOT at 20,000 cells", speed, 20.0, digits=1))
    lines.append(
        verdict("largest peak memory over the embedding's bytes", float(np.max(peaks)), 6.0, at_most=True, digits=2)
    )
    return lines


def page(results: Mapping[str, Mapping[str, tuple[Measure, float]]]) -> Sequence[str]:
    """The parts of the report."""
    rows, errors = [], []
    for case, found in results.items():
        for method, (m, multiple) in found.items():
            rows.append([*CASES[case][:2], method, m.version, m.seconds, m.first, m.peak / 1e6, multiple])
            errors += [f"- {case}, {method}: {m.error}"] if m.error else []
    header = ["cells", "batches", "method", "version", "seconds", "first call", "peak MB", "peak / embedding"]
    failed = ["## Failed\n", *errors, ""] if errors else []
    body = ["## Targets\n", *verdicts(results), "\n## Figures\n", table(header, rows, 2)]
    return [NOTE, setting("numpy"), *failed, *body]


def main() -> None:
    """Run, print, and write the page when no case was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    cases = parser.parse_args().cases
    report("scale", "Time and memory", page({case: run(case) for case in cases}), write=set(cases) == set(CASES))


if __name__ == "__main__":
    main()
