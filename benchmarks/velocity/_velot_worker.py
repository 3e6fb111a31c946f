"""One velocity method on the inputs of a folder.

Usage: ``python -m benchmarks.velocity._velot_worker METHOD FOLDER``.

Reads ``in*.npz`` in order and writes ``out*.npz``: the method's arrays, ``seconds`` (wall), ``cpu`` (seconds of all
threads), ``peak`` (bytes of resident memory in all) and ``above`` (of these, above what imports and a first small call
hold).
"""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from benchmarks.common._worker import peak_bytes, reset_peak
from benchmarks.velocity._velocity_methods import PACKAGE, load


def warm_up(method: str, run: object) -> None:
    """A call on a few random cells, where a method compiles or imports at its first."""
    if method not in ("muport", "velot"):
        return
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 30)).astype(np.float32)
    run({"X": X, "time": rng.uniform(size=600), "embedding": X[:, :2]})


def one(method: str, source: Path) -> None:
    """Measure the method on one file; a failure is a result too."""
    run = load(method)
    reset_peak()
    base = peak_bytes()
    with np.load(source) as stored:
        data = dict(stored)
    start, cpu = time.perf_counter(), time.process_time()
    out, error = {}, ""
    try:
        out = run(data)
    except Exception as failure:  # noqa: BLE001
        error = f"{type(failure).__name__}: {failure}"[:500]
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_bytes()
    figures = {"seconds": seconds, "cpu": cpu, "peak": peak, "above": peak - base, "error": error}
    version = metadata.version(PACKAGE[method][1])
    np.savez(source.with_name(source.name.replace("in", "out", 1)), version=version, **figures, **out)


def main(method: str, folder: str) -> None:
    """Every input of the folder."""
    warm_up(method, load(method))
    for source in sorted(Path(folder).glob("in*.npz")):
        one(method, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
