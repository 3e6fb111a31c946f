"""Run a method in a fresh process of two threads: its result, seconds and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._methods import inputs

if TYPE_CHECKING:
    from benchmarks.common._data import Cells
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
OWN_ENVIRONMENT = frozenset({"concord", "harmony1", "scanorama", "scbiot"})
N_THREADS = 2
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Measure:
    """``Z`` (n, d); ``seconds``, ``first`` (the warm-up's); ``peak`` bytes above those after import; or ``error``."""

    method: str
    Z: NDArray[np.float32] | None = None
    seconds: float = float("nan")
    first: float = float("nan")
    peak: float = float("nan")
    version: str = ""
    error: str = ""


def make_environment(peer: str, folder: Path) -> None:
    """Install a peer and what it needs into ``folder``."""
    subprocess.run([ROOT / "benchmarks" / "peers" / "make_environment.sh", peer, folder], check=True)


def interpreter(method: str) -> str:
    """The Python of the method's environment; one of its own is built at its first use."""
    if method not in OWN_ENVIRONMENT:
        return sys.executable
    folder = ROOT / f".venv-{method}"
    python = folder / "bin" / "python"
    if not python.exists():
        make_environment(method, folder)
    return str(python)


def _pin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_THREADS])


def measure(method: str, cells: Cells, timeout: float = 3600) -> Measure:
    """Run ``method`` on ``cells``; a failure is a result too and stands in ``error``."""
    seen = {key: getattr(cells, key) for key in inputs(method)}
    if missing := [key for key, values in seen.items() if values is None]:
        return Measure(method, error=f"{cells.name} has no {missing[0]}")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **seen)
        try:
            command = [interpreter(method), "-W", "ignore", "-m", "benchmarks.common._worker", method, source, target]
            env = os.environ | dict.fromkeys(POOLS, str(N_THREADS))
            done = subprocess.run(
                command, cwd=ROOT, env=env, preexec_fn=_pin, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return Measure(method, error=f"no result within {timeout:g} seconds")
        except (subprocess.SubprocessError, OSError) as error:
            return Measure(method, error=str(error))
        if done.returncode:
            return Measure(method, error=(done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])
        with np.load(target) as out:
            figures = {key: float(out[key]) for key in ("seconds", "first", "peak")}
            return Measure(method, out["Z"], version=str(out["version"]), **figures)


def median_measure(method: str, cells: Cells, repeats: int = 3) -> Measure:
    """Medians of ``repeats`` fresh processes (the embedding is the last one's)."""
    runs = [measure(method, cells) for _ in range(repeats)]
    if any(run.error for run in runs):
        return next(run for run in runs if run.error)
    figures = {key: median(getattr(run, key) for run in runs) for key in ("seconds", "first", "peak")}
    return Measure(method, runs[-1].Z, version=runs[-1].version, **figures)
