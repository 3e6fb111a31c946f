"""The first call of each model in a fresh process against the second, and ``pp.prepare`` of 10,000 multiome cells.

Usage: ``python -m benchmarks.first_call``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import anndata
import mudata
import numpy as np
import pandas as pd
from benchmarks.common._measure import N_THREADS, POOLS, ROOT
from benchmarks.common._tables import report, setting, table, verdict
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds: the most that a first call may take beyond the second, and that ``prepare`` may take.
EXCESS, PREPARE = 3.0, 30.0
N_CELLS, N_GENES, N_PEAKS, DETECTED = 10_000, 20_000, 50_000, 0.1
NOTE = f"""\
Each row is a process of its own with {N_THREADS} threads, which has imported the class or function and made its data.
The first call is followed by the same call on a fresh copy of the data; what the first takes longer are imports and
compilation. Differences are of processor seconds, over all threads, so that other processes on the machine do not
count; the wall time of the first call is beside them, and the limit of prepare is one of wall time. Integration: set
up, train, predict and write 600 cells of two batches. GMM: train, distances and predictions of 20 samples. Velocity:
train, velocities and fates of 400 cells.
prepare: RNA and peaks of 400 simulated cells.

prepare of {N_CELLS:,} cells: {N_GENES:,} genes and {N_PEAKS:,} peaks, of which a cell has {DETECTED:.0%}, six groups of
cells, no UMAP, the first call of its process.
"""


def integrate() -> Callable[[], None]:
    """All that a user calls on one embedding with labels."""
    from muport import Integration

    rng = np.random.default_rng(0)
    kind, batch = np.arange(600) % 3, np.arange(600) // 3 % 2
    x = rng.normal(size=(600, 15)) + 4 * np.eye(15)[kind] + batch[:, None] * 0.5
    obs = {"batch": np.array(["a", "b"])[batch], "type": np.where(batch == 0, np.char.mod("T%d", kind), "unknown")}
    cells = anndata.AnnData(obs=pd.DataFrame(obs, index=np.arange(600).astype(str)), obsm={"X_pca": x.astype("f4")})

    def call() -> None:
        data = cells.copy()
        Integration.setup_anndata(data, batch_key="batch", labels_key="type")
        model = Integration(data)
        model.train(progress=False)
        model.predict()
        model.write(data)

    return call


def compare_samples() -> Callable[[], None]:
    """All that a user calls on the cells of patients."""
    from muport import GMM, datasets

    cells = datasets.simulated_cohort(n_patients=20, n_cells=60, n_dims=6, random_state=0)

    def call() -> None:
        data = cells.copy()
        GMM.setup_anndata(data, use_rep="X_pca", sample_key="sample", labels_key="condition")
        model = GMM(data)
        model.train(k_comps=3, n_comps=2, progress=False)
        model.get_sample_distances()
        model.predict(data)

    return call


def estimate_velocity() -> Callable[[], None]:
    """All that a user calls on cells with a pseudotime."""
    from muport import Velocity, datasets

    cells = datasets.simulated_dynamics("bifurcation", n_cells=400, random_state=0)

    def call() -> None:
        data = cells.copy()
        Velocity.setup_anndata(data, time_key="time", labels_key="branch")
        model = Velocity(data)
        model.train(progress=False)
        model.get_velocity()
        model.get_fates(terminal_states=["A", "B"])

    return call


def prepare_few() -> Callable[[], None]:
    """Preprocess a small multiome."""
    from muport.pp import prepare

    cells = simulated_multiome(400, 2_000, 4_000)
    return lambda: prepare(cells.copy(), progress=False)


def prepare_many() -> Callable[[], None]:
    """Preprocess the multiome of the target."""
    from muport.pp import prepare

    cells = simulated_multiome(N_CELLS, N_GENES, N_PEAKS)
    return lambda: prepare(cells, progress=False)


CASES = {
    "Integration": integrate,
    "GMM": compare_samples,
    "Velocity": estimate_velocity,
    "pp.prepare": prepare_few,
    "pp.prepare, 10,000 cells": prepare_many,
}


def simulated_multiome(n_cells: int, n_genes: int, n_peaks: int) -> mudata.MuData:
    """Counts of six groups of cells, each with a tenth of the features changed."""
    names = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    genes, peaks = [f"g{i}" for i in range(n_genes)], [f"chr1:{100 * i}-{100 * i + 50}" for i in range(n_peaks)]
    parts = {"rna": genes, "atac": peaks}
    return mudata.MuData(
        {
            name: anndata.AnnData(_counts(n_cells, len(features), seed), obs=names, var=pd.DataFrame(index=features))
            for seed, (name, features) in enumerate(parts.items())
        }
    )


def _counts(n: int, p: int, seed: int) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    base, limits = rng.gamma(0.5, size=p), []
    for _ in range(6):
        rate = base * np.where(rng.random(p) < 0.1, rng.gamma(1, 2, size=p), 1)
        limits.append(np.cumsum(rate / rate.sum()))
    size = rng.poisson(DETECTED * p * rng.uniform(0.5, 1.5, n))
    columns = [np.searchsorted(limits[i % 6], rng.random(k)).clip(max=p - 1) for i, k in enumerate(size)]
    values = np.ones(int(size.sum()), np.float32)
    counts = sparse.csr_matrix((values, np.concatenate(columns), np.r_[0, np.cumsum(size)]), shape=(n, p))
    counts.sum_duplicates()
    return counts


def child(name: str) -> None:
    """Print the seconds of the first and second call as JSON."""
    call, seconds = CASES[name](), []
    for _ in range(1 if name.endswith("cells") else 2):
        start = time.process_time(), time.perf_counter()
        call()
        seconds.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    print(json.dumps(seconds))


def measured(name: str) -> list[tuple[float, float]]:
    """Processor and wall seconds of each call, in a fresh process."""
    env = os.environ | dict.fromkeys(POOLS, str(N_THREADS))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.first_call", "--case", name]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return [tuple(pair) for pair in json.loads(done.stdout.strip().splitlines()[-1])]


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help="measure one case in this process")
    case = parser.parse_args().case
    if case is not None:
        return child(case)
    rows: list[list[object]] = []
    lines = []
    for name in CASES:
        seconds = measured(name)
        first, second = seconds[0][0], seconds[1][0] if len(seconds) > 1 else float("nan")
        rows.append([name, first, second, first - second, seconds[0][1]])
        print(*rows[-1], flush=True)
        if len(seconds) > 1:
            lines.append(
                verdict(f"{name}: first call beyond the second", first - second, EXCESS, at_most=True, digits=1)
            )
        else:
            lines.append(verdict(f"{name}: seconds of wall time", seconds[0][1], PREPARE, at_most=True, digits=1))
    header = ["call", "first, s", "second, s", "difference, s", "wall time of the first, s"]
    page = [
        NOTE,
        setting("numpy", "scipy", "scanpy", "torch"),
        "## Targets\n",
        *lines,
        "\n## Figures\n",
        table(header, rows, digits=1),
    ]
    report("first_call", "First call of a process", page, write=True)


if __name__ == "__main__":
    main()
