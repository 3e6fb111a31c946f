"""One preparation of ATAC counts, alone in its process.

Usage: ``python -m benchmarks.modalities._atac_worker METHOD IN.h5ad OUT.npz``.

Writes the representation ``Z``, ``seconds`` (wall), ``cpu`` (seconds of all threads), ``peak`` (bytes of resident
memory of the whole process, imports included), ``imports`` (of these, after the imports) and ``version``.  It runs in
scBIOT's environment too, so it imports nothing of ours but what the method needs.
"""

from __future__ import annotations

import resource
import sys
import time
from importlib import import_module, metadata

import anndata
import numpy as np

MODULES = {"muport": "muport.pp", "muon": "muon", "scbiot": "scbiot.pp"}


def muport(pp: object, adata: anndata.AnnData) -> np.ndarray:
    """``muport.pp.iterative_lsi`` at its defaults."""
    pp.iterative_lsi(adata)
    return adata.obsm["X_lsi"]


def muon(module: object, adata: anndata.AnnData) -> np.ndarray:
    """muon's TF-IDF and LSI at their defaults, less the first component, as its tutorials do."""
    module.atac.pp.tfidf(adata)
    module.atac.tl.lsi(adata)
    return adata.obsm["X_lsi"][:, 1:]


def scbiot(pp: object, adata: anndata.AnnData) -> np.ndarray:
    """scBIOT's ``add_iterative_lsi`` at its defaults, which read a layer."""
    return pp.add_iterative_lsi(adata, layer=None)


def peak_bytes() -> int:
    """The highest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(method: str, source: str, target: str) -> None:
    """Measure one method; the file is read before the clock starts."""
    module = import_module(MODULES[method])
    imports = peak_bytes()
    adata = anndata.read_h5ad(source)
    start, cpu = time.perf_counter(), time.process_time()
    Z = {"muport": muport, "muon": muon, "scbiot": scbiot}[method](module, adata)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    np.savez(target, Z=np.asarray(Z, np.float32), seconds=seconds, cpu=cpu, peak=peak_bytes(), imports=imports,
             version=metadata.version(method))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
