"""Nearest patients and embedding of large cohorts: time and memory, each size in a fresh process.

Usage: ``python -m benchmarks.patients.large_cohort``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.common._measure import ROOT
from benchmarks.common._tables import report, setting, table, verdict
from benchmarks.common._worker import peak_bytes, reset_peak

SIZES, N_CELLS, N_DIMS, K, N_NEIGHBORS = (200, 1000), 500, 30, 8, 50
NOTE = f"""\
Simulated patients of {N_CELLS} cells in {N_DIMS} dimensions, {K} components each. mixtures: `fit_gmm`; neighbors:
`get_sample_neighbors({N_NEIGHBORS})`, of MW2 distances; embedding: `get_sample_embedding(metric="linear")`. Memory is
the peak of the process above the imports and the cells.
"""


def measure(n_patients: int) -> None:
    """Print the seconds, processor seconds and peak (MiB) of each step."""
    from muport import GMM, datasets

    adata = datasets.simulated_cohort(n_patients, N_CELLS, N_DIMS, n_genes=N_DIMS)
    GMM.setup_anndata(adata, use_rep="X_pca", sample_key="sample")
    model = GMM(adata)
    reset_peak()
    base = peak_bytes()
    steps = {
        "mixtures": lambda: model.fit_gmm(k_comps=K, verbose=False),
        "neighbors": lambda: model.get_sample_neighbors(N_NEIGHBORS),
        "embedding": lambda: model.get_sample_embedding(metric="linear"),
    }
    for name, step in steps.items():
        start = time.perf_counter(), time.process_time()
        step()
        spent = time.perf_counter() - start[0], time.process_time() - start[1]
        print("step", name, *spent, (peak_bytes() - base) / 2**20, flush=True)


def main() -> None:
    """Run, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", type=int, help="number of patients to measure in this process")
    if (n_patients := parser.parse_args().alone) is not None:
        measure(n_patients)
        return
    rows: list[list[object]] = []
    spent: dict[tuple[int, str], list[float]] = {}
    for n in SIZES:
        command = [sys.executable, "-m", "benchmarks.patients.large_cohort", "--alone", str(n)]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in output.splitlines():
            if line.startswith("step "):
                name, *values = line.split()[1:]
                spent[n, name] = [float(value) for value in values]
                rows.append([n, name, *spent[n, name]])
                print(*rows[-1], flush=True)
    largest, before = SIZES[-1], SIZES[-2]
    asked = ("neighbors", "embedding")
    lines = [
        verdict(f"{largest} patients, processor seconds of neighbors and embedding",
                sum(spent[largest, name][1] for name in asked), 120, at_most=True, digits=1),
        verdict(f"{largest} patients, peak, MiB", max(spent[largest, name][2] for name in asked), 2048, at_most=True,
                digits=0),
    ]  # fmt: skip
    growth = {name: spent[largest, name][1] / spent[before, name][1] for name in ("mixtures", *asked)}
    text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in growth.items())
    page = [NOTE, setting("numpy", "torch"), "## Targets\n", *lines,
            f"\nProcessor seconds of {largest} patients over those of {before}: {text}.\n", "## Figures\n",
            table(["patients", "step", "seconds", "CPU s", "peak so far, MiB"], rows, digits=1)]  # fmt: skip
    report("large_cohort", "Patients: large cohorts", page, write=True)


if __name__ == "__main__":
    main()
