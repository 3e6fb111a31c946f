"""One method on one input, alone in its process.

Usage: ``python -m benchmarks.common._worker METHOD IN.npz OUT.npz``.
"""

from __future__ import annotations

import resource
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from benchmarks.common import _methods

DISTRIBUTION = {
    "combat": "scanpy",
    "harmony": "harmonypy",
    "harmony1": "harmonypy",
    "scvi": "scvi-tools",
    "scanvi": "scvi-tools",
    "concord": "concord-sc",
}


def reset_peak() -> None:
    """Forget the peak of the resident memory so far, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """The highest resident memory since ``reset_peak`` (or, without Linux's /proc, since the start)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warm_up(method: str, n_cells: int = 600) -> float:
    """Seconds of a first call on a few random cells: lazy imports, thread pools and compilers settle here."""
    rng = np.random.default_rng(0)
    values = {
        "X": rng.normal(size=(n_cells, 20)).astype(np.float32),
        "log": rng.random((n_cells, 20)).astype(np.float32),
        "counts": rng.poisson(2, (n_cells, 20)).astype(np.float32),
        "batch": np.repeat(["a", "b", "c"], n_cells // 3),
        "label": np.tile(["a", "b"], n_cells // 2),
    }
    start = time.perf_counter()
    _methods.load(method)(**{key: values[key] for key in _methods.inputs(method)})
    return time.perf_counter() - start


def version(method: str) -> str:
    """The version of the method's package, if it is an installed one."""
    try:
        return metadata.version(DISTRIBUTION.get(method, method))
    except metadata.PackageNotFoundError:
        return ""


def main(method: str, source: str, target: str) -> None:
    """Measure ``method``; the memory counts from before the input is read."""
    run = _methods.load(method)
    first = warm_up(method)
    reset_peak()
    base = peak_bytes()
    with np.load(source) as data:
        seen = {key: data[key] for key in _methods.inputs(method)}
    start = time.perf_counter()
    Z = run(**seen)
    seconds = time.perf_counter() - start
    peak = peak_bytes() - base
    np.savez(target, Z=Z, seconds=seconds, first=first, peak=peak, version=version(method))


if __name__ == "__main__":
    main(*sys.argv[1:])
