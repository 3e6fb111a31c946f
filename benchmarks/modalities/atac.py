"""ATAC from counts beside muon and scBIOT.

Usage: ``python -m benchmarks.modalities.atac [--only METHOD ...]``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scanpy as sc
from benchmarks.common._measure import N_THREADS, POOLS, ROOT, interpreter
from benchmarks.common._scores import neighbours
from benchmarks.common._tables import report, setting, table, verdict
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from muport import datasets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

DATASET = "snare_mouse_cortex"
METHODS = {"muport": "muport, iterative_lsi", "muon": "muon, tfidf + lsi", "scbiot": "scBIOT, add_iterative_lsi"}
RESOLUTIONS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5)
NOTE = f"""\
Counts to a representation, every method at its defaults, in a process of its own with {N_THREADS} threads; the file is
read before the clock starts. Peak: resident memory of the whole process, and what its imports alone hold. muon's first
component is dropped, as its tutorials do. Sanity of the result: cell types of the file (found in the RNA) against
Leiden clusters (15 neighbours; the best of the resolutions {", ".join(map(str, RESOLUTIONS))} by NMI, for every method)
and the share of a cell's 10 nearest neighbours of its type.
"""


def measure(method: str, source: Path, folder: str) -> Mapping[str, NDArray[np.float32]] | str:
    """Figures and the representation of one method; or why there are none."""
    target = Path(folder) / f"{method}.npz"
    env = os.environ | dict.fromkeys(POOLS, str(N_THREADS)) | {"PYTHONPATH": str(ROOT)}
    try:
        command = [
            interpreter(method),
            "-W",
            "ignore",
            "-m",
            "benchmarks.modalities._atac_worker",
            method,
            source,
            target,
        ]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3600)
    except (subprocess.SubprocessError, OSError) as error:
        return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    with np.load(target) as found:
        return dict(found)


def scores(Z: NDArray[np.float32], label: NDArray[np.str_]) -> list[float]:
    """NMI and ARI of the best Leiden clustering, and the purity of neighbourhoods."""
    cells = ad.AnnData(np.zeros((len(Z), 1), np.float32), obsm={"Z": Z})
    sc.pp.neighbors(cells, use_rep="Z", random_state=0)
    found = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, random_state=0)
        cluster = cells.obs["leiden"].to_numpy()
        found.append((normalized_mutual_info_score(label, cluster), adjusted_rand_score(label, cluster)))
    code = np.unique(label, return_inverse=True)[1]
    return [*max(found), float((code[neighbours(Z, 10)] == code[:, None]).mean())]


def main() -> None:
    """Run, print, and write the page when no method was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    names = parser.parse_args().only
    atac = datasets.load(DATASET)["atac"]
    label, rows, own = atac.obs["cell_type"].to_numpy().astype(str), [], [np.nan] * 3
    plain = ad.AnnData(atac.X)
    plain.obs_names, plain.var_names = atac.obs_names.astype(str), atac.var_names.astype(str)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "atac.h5ad"
        plain.write_h5ad(source)
        for method in names:
            found = measure(method, source, folder)
            if isinstance(found, str):
                print(f"{method} failed: {found}", flush=True)
                rows.append([METHODS[method], "–", *[np.nan] * 7])
                continue
            figures = [float(found[key]) for key in ("seconds", "cpu", "peak", "imports")]
            own = [*figures[:2], figures[2] / 1e9] if method == "muport" else own
            sizes = [figures[2] / 1e9, figures[3] / 1e9, found["Z"].shape[1]]
            rows.append([f"{METHODS[method]} {found['version']}", *figures[:2], *sizes, *scores(found["Z"], label)])
            print(*rows[-1], flush=True)
    header = ["method", "seconds", "CPU s", "peak GB", "imports GB", "components", "NMI", "ARI", "10-NN purity"]
    parts = [
        NOTE,
        setting("muon", "scipy", "scanpy", "numpy"),
        "## Targets\n",
        verdict("seconds", own[0], 30, at_most=True, digits=1),
        verdict("CPU seconds, which other load on the machine lengthens less", own[1], 30, at_most=True, digits=1),
        verdict("peak of the whole process, GB", own[2], 1.5, at_most=True, digits=2),
        f"\n## Figures\n\n{DATASET}: {atac.n_obs} cells, {atac.n_vars} peaks.\n",
        table(header, rows),
    ]
    report("atac", "ATAC from counts", parts, write=set(names) == set(METHODS))


if __name__ == "__main__":
    main()
