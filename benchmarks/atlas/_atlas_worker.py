"""One run on an atlas, alone in its process.

Usage: ``python -m benchmarks.atlas._atlas_worker METHOD IN.zarr OUT.zarr [k=v ...]``.

The last line that is printed holds its figures as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


def peak_bytes() -> float:
    """Highest resident memory of this process, libraries included."""
    with open("/proc/self/status") as lines:
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def clocked(function: Callable[..., Any], name: str, cpu: dict[str, float]) -> Callable[..., Any]:
    """The function, its processor seconds added to ``cpu[name]``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            cpu[name] = cpu.get(name, 0.0) + time.process_time() - start

    return call


def muport(source: str, target: str, options: dict[str, int]) -> dict[str, float]:
    """Our centroid path, from file to file; wall seconds by stage, and processor seconds of all threads."""
    from muport import integrate_centroids
    from muport.integration.atlas import _centroid_fit
    from muport.integration.atlas import _integrate_centroids as _atlas

    cpu: dict[str, float] = {}
    _centroid_fit.draw_sample = clocked(_centroid_fit.draw_sample, "cpu_sample", cpu)
    _centroid_fit.fit_shared_centers = clocked(_centroid_fit.fit_shared_centers, "cpu_fit", cpu)
    _atlas._map_chunks = clocked(_atlas._map_chunks, "cpu_map", cpu)
    start = time.process_time()
    _, metrics = integrate_centroids(source, tmp_path=target, verbose=False, use_gpu=False, **options)
    return metrics | cpu | {"cpu_total": time.process_time() - start}


def harmony(source: str, target: str, options: dict[str, int]) -> dict[str, float]:
    """harmonypy on the same cells, read whole."""
    import harmonypy
    import pandas as pd
    import zarr

    root = zarr.open_group(source, mode="r")
    X, codes = root["obsm/X_pca"][:], root["obs/batch/codes"][:]
    meta = pd.DataFrame({"batch": pd.Categorical([f"b{i}" for i in range(codes.max() + 1)]).take(codes)})
    wall, cpu = time.perf_counter(), time.process_time()
    out = np.asarray(harmonypy.run_harmony(X, meta, "batch", verbose=False).Z_corr)
    assert np.isfinite(out).all()
    return {"seconds_total": time.perf_counter() - wall, "cpu_total": time.process_time() - cpu}


def main(method: str, source: str, target: str, *options: str) -> None:
    """Run and print."""
    chosen = {key: int(value) for key, _, value in (option.partition("=") for option in options)}
    found = {"muport": muport, "harmony": harmony}[method](source, target, chosen)
    print(json.dumps(found | {"peak_memory": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
