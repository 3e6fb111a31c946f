"""The centroid path on simulated and real cells.

Usage: ``python -m benchmarks.atlas.centroids [--parts ...]``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.atlas._atlas_data import N_DIMS, write_atlas
from benchmarks.common._data import BATCH_FILES, Cells, load_cells, synthetic
from benchmarks.common._measure import N_THREADS, POOLS, ROOT, _pin
from benchmarks.common._methods import _adata, muport
from benchmarks.common._tables import RESULTS, setting, table, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PARTS = ("scale", "large", "quality", "faults", "cluster")
CELLS, LARGE = (1_000_000, 10_000_000), (1_000_000, 30_000_000)  # the largest needs 13 GB of disk
SMALL = 300_000  # cells of the faults and of the cluster
KILLS = 10
FEWEST = 400  # sampled cells of a batch from which a sample is compared
TITLES = {
    "scale": "Time and memory",
    "large": "Time and memory, 30 million cells",
    "quality": "Quality: the centroid path against all cells in memory",
    "faults": "Killed and called again",
    "cluster": "Workers of a cluster",
}
NOTE = """\
`muport.integrate_centroids` from zarr to zarr, at its defaults. Simulated cells: 50 float32 coordinates, 12 types, 20
batches in random order, chunks of 100,000 rows without compression.
"""


def work(method: str, source: Path, target: Path, *options: str) -> list[str | Path]:
    return [sys.executable, "-W", "ignore", "-m", "benchmarks.atlas._atlas_worker", method, source, target, *options]


def measured(command: Sequence[str | Path]) -> dict[str, float] | str:
    """Figures of a worker in a process of two threads, or what it died of."""
    env = os.environ | dict.fromkeys(POOLS, str(N_THREADS))
    done = subprocess.run(command, cwd=ROOT, env=env, preexec_fn=_pin, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1])


def forget(folder: Path) -> None:
    """Take files out of the page cache, so that they are read from the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_seconds(source: Path) -> tuple[float, float]:
    """Seconds to read an atlas' coordinates from the disk, and to write as many bytes and sync them."""
    files = [f for f in (source / "obsm" / "X_pca").rglob("*") if f.is_file()]
    forget(source)
    start = time.perf_counter()
    for file in files:
        file.read_bytes()
    reading = time.perf_counter() - start
    content, target = os.urandom(2**24), source.parent / "bytes"
    start = time.perf_counter()
    with open(target, "wb", buffering=0) as out:
        for _ in range(math.ceil(sum(f.stat().st_size for f in files) / len(content))):
            out.write(content)
        os.fsync(out.fileno())
    writing = time.perf_counter() - start
    target.unlink()
    return reading, writing


def scale(folder: Path, sizes: Sequence[int]) -> list[str]:
    """Seconds by stage and memory at each size; harmonypy at the smallest."""
    found, disk, rows, errors = {}, {}, [], []
    for n in sizes:
        source = folder / f"{n}.zarr"
        write_atlas(source, n)
        disk[n] = disk_seconds(source)
        forget(source)
        run = measured(work("muport", source, folder / "out.zarr"))
        shutil.rmtree(folder / "out.zarr", ignore_errors=True)
        other = measured(work("harmony", source, folder / "none")) if n == min(sizes) else None
        shutil.rmtree(source)
        for method, figures in (("muport", run), ("harmonypy", other)):
            if isinstance(figures, str):
                errors.append(f"- {method}, {n} cells: {figures}")
            elif figures:
                rows.append(scale_row(n, method, figures))
                found[method, n] = figures
                print(*rows[-1], flush=True)
    io = [[n, *disk[n], *(4 * n * N_DIMS / 1e6 / seconds for seconds in disk[n])] for n in sizes]
    header = ["cells", "method", "sample s", "fit s", "map s", "total s", "processor s", "peak MB", "centroids"]
    return [
        "Wall seconds of a process of two threads, by stage; processor seconds of all its threads, which a busy "
        "machine changes least. Peak: highest resident memory of the process, libraries included. Files are taken out "
        "of the page cache first; the disk's own time is measured in the same run, with the same bytes.\n",
        *errors,
        *scale_verdicts(found, disk),
        "",
        table(header, rows, 1),
        table(["cells", "disk read s", "disk write s", "read MB/s", "write MB/s"], io, 1),
    ]


def scale_row(n: int, method: str, figures: dict[str, float]) -> list[object]:
    keys = ("seconds_sample", "seconds_fit", "seconds_map", "seconds_total", "cpu_total")
    values = [figures.get(key, math.nan) for key in keys]
    centroids = figures.get("n_centroids")
    return [n, method, *values, figures["peak_memory"] / 1e6, int(centroids) if centroids else "–"]


def scale_verdicts(found: dict[tuple[str, int], dict[str, float]], disk: dict[int, tuple[float, float]]) -> list[str]:
    ours = {n: figures for (method, n), figures in found.items() if method == "muport"}
    lines = []
    if len(ours) > 1:
        low, high = min(ours), max(ours)
        # the fit is on a sample of one size: what grows is the reading and the mapping
        growing = {n: figures["cpu_sample"] + figures["cpu_map"] for n, figures in ours.items()}
        exponent = math.log(growing[high] / growing[low]) / math.log(high / low)
        ratio = ours[high]["peak_memory"] / ours[low]["peak_memory"]
        text = f"exponent ({exponent:.3f}) of processor time from {low} to {high} cells, without the fit, less 1"
        lines += [
            verdict(text, abs(exponent - 1), 0.05, at_most=True),
            verdict(f"peak memory at {high} cells over that at {low}", ratio, 1.1, at_most=True),
        ]
    for n, figures in ours.items():
        lines.append(verdict(f"peak GB at {n} cells", figures["peak_memory"] / 1e9, 1.2, at_most=True))
        if n == 10_000_000:
            own = figures["seconds_total"] - sum(disk[n])
            lines.append(verdict(f"seconds at {n} cells, less the disk's", own, 90, at_most=True, digits=1))
            half, text = figures["cpu_total"] / N_THREADS, f"processor seconds at {n} cells over {N_THREADS} cores"
            lines.append(verdict(text, half, 90, at_most=True, digits=1))
    return lines


def centroid_path(cells: Cells, **options: int) -> NDArray[np.float32]:
    from muport import integrate_centroids

    adata, _ = integrate_centroids(_adata(cells.X, cells.batch), verbose=False, use_gpu=False, **options)
    return np.asarray(adata.obsm["scBIOT"])


def recovered() -> float:
    """Largest relative error of the mean displacement of two copies of the same cells, one moved: half of it each."""
    base = synthetic(4_000, 1, 10).X
    way = np.full(10, 0.5, np.float32)
    both = Cells("moved", np.concatenate([base, base + way]), np.repeat(["a", "b"], len(base)), np.empty(0))
    from muport import integrate_centroids

    adata = _adata(both.X, both.batch)
    integrate_centroids(adata, sharpen=0, projector=0, conservation=0, verbose=False, use_gpu=False)
    moved = adata.obsm["scBIOT"] - both.X
    halves = (moved[: len(base)].mean(0) - way / 2, moved[len(base) :].mean(0) + way / 2)
    return max(float(np.linalg.norm(half) / np.linalg.norm(way / 2)) for half in halves)


def quality(folder: Path) -> list[str]:
    """ScIB totals of three embeddings of each data set."""
    from benchmarks.common._scores import scib

    rows, gaps = [], []
    for cells in [*map(load_cells, BATCH_FILES), synthetic(40_000, 8)]:
        embeddings = {"memory": muport(cells.X, cells.batch), "centroids": centroid_path(cells)}
        quarter = int(np.median(np.unique(cells.batch, return_counts=True)[1])) // 4
        if quarter >= FEWEST:
            embeddings["sampled"] = centroid_path(cells, max_samples_per_batch=quarter)
        total = scib(cells, embeddings)["Total"].reindex(["memory", "centroids", "sampled"])
        rows.append([cells.name, len(cells.X), len(np.unique(cells.batch)), quarter, *map(float, total)])
        gaps.append((total["centroids"] - total["memory"], total["sampled"] - total["memory"]))
        print(*rows[-1], flush=True)
    whole, sampled = np.array(gaps, float).T
    return [
        "Sum of scIB's scores: `Integration` on all cells, the centroid path at its defaults, and, where a quarter of "
        f"the median batch has at least {FEWEST} cells, with samples of that size: its centroids stand for cells that "
        "the fit never saw.\n",
        verdict("worst data set, centroid path at its defaults over memory", float(whole.min()), -0.01),
        verdict("worst data set, with sampled batches, over memory", float(np.nanmin(sampled)), -0.01),
        verdict("relative error of the displacement of two batches shifted apart", recovered(), 0.01, at_most=True),
        "",
        table(["data set", "cells", "batches", "quarter of a batch", "memory", "centroids", "sampled"], rows),
    ]


def read(path: Path) -> NDArray[np.float32]:
    import zarr

    return zarr.open_array(path / "obsm" / "scBIOT", mode="r")[:]


def call(source: Path, target: Path) -> None:
    """One run, in a process of its own."""
    from muport import integrate_centroids

    integrate_centroids(source, tmp_path=target, chunk_size=10_000, verbose=False, use_gpu=False)


def faults(folder: Path) -> list[str]:
    """Kill a run at random moments, call it again, compare."""
    source = folder / "small.zarr"
    write_atlas(source, SMALL)
    # processes are forked from one that has the libraries: moments are then moments of the run
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["muport.integration.atlas._integrate_centroids", "sklearn.manifold"])
    for target in ("first.zarr", "whole.zarr"):
        start = time.perf_counter()
        run = context.Process(target=call, args=(source, folder / target))
        run.start()
        run.join()
    last, before = time.perf_counter() - start, read(folder / "whole.zarr")
    rows, same, target = [], 0, folder / "killed.zarr"
    for moment in np.sort(np.random.default_rng(0).uniform(0.05, 1, KILLS)) * last:
        run = context.Process(target=call, args=(source, target))
        run.start()
        run.join(moment)
        run.kill()
        run.join()
        died = run.exitcode == -signal.SIGKILL
        done = len(list((folder / "killed.zarr.partial" / "done").glob("0*.json")))
        half = target.exists() and not np.array_equal(read(target), before)
        run = context.Process(target=call, args=(source, target))
        run.start()
        run.join()
        equal = run.exitcode == 0 and not half and np.array_equal(read(target), before)
        same += equal
        rows.append([float(moment / last), "yes" if died else "it had ended", done, "yes" if equal else "no"])
        print(*rows[-1], flush=True)
        shutil.rmtree(target, ignore_errors=True)
    return [
        f"{SMALL} cells in {SMALL // 10_000} chunks; SIGKILL at a random moment of the call, which is then repeated.\n",
        verdict("resumed runs that are bit-identical to one that was not interrupted", float(same), KILLS, digits=0),
        "",
        table(["share of the run", "killed", "chunks done by then", "identical after a second call"], rows, 2),
    ]


def cluster(folder: Path) -> list[str]:
    """Two workers of a LocalCluster, one of which is killed in the second run."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return [verdict("largest difference with two dask workers (dask is not installed)", math.nan, 1e-5)]
    from muport import integrate_centroids

    source = folder / "small.zarr"
    write_atlas(source, SMALL)
    options = {"chunk_size": 10_000, "verbose": False, "use_gpu": False}
    integrate_centroids(source, tmp_path=folder / "one.zarr", **options)
    wanted, lines = read(folder / "one.zarr"), []
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as local, Client(local) as client:
        for name, victim in (("", None), (", one of them killed", next(iter(client.run(os.getpid).values())))):
            target = folder / f"two{len(lines)}.zarr"
            killer = threading.Thread(target=kill_after, args=(target, 5, victim))
            killer.start()
            integrate_centroids(source, tmp_path=target, client=client, **options)
            killer.join()
            difference = float(np.abs(read(target) - wanted).max())
            lines.append(
                verdict(f"largest difference with two workers{name}", difference, 1e-5, at_most=True, digits=7)
            )
    shutil.rmtree(source)
    return [f"{SMALL} cells in {SMALL // 10_000} chunks, on a `LocalCluster`.\n", *lines, ""]


def kill_after(target: Path, chunks: int, victim: int | None) -> None:
    done = target.with_name(f"{target.name}.partial") / "done"
    while victim is not None and not target.exists():
        if done.exists() and len(list(done.glob("0*.json"))) >= chunks:
            os.kill(victim, signal.SIGKILL)
            return
        time.sleep(0.002)


def save(found: dict[str, list[str]]) -> None:
    """Write the parts that were run into the page; the others stay as they are."""
    path = RESULTS / "atlas.md"
    parts = {}
    if path.exists():
        for section in path.read_text(encoding="utf-8").split("\n## ")[1:]:
            title, _, body = section.partition("\n")
            parts[title] = body.strip("\n")
    for name, lines in found.items():
        parts[TITLES[name]] = "\n".join([setting("numpy"), *lines]).strip("\n")
    body = "\n\n".join(f"## {title}\n\n{parts[title]}" for title in TITLES.values() if title in parts)
    path.write_text(f"# Atlas scale\n\n{NOTE}\n{body}\n", encoding="utf-8")


def main() -> None:
    """Run the parts, print them, and write each into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, default=None, help="where atlases are written, and deleted after")
    args = parser.parse_args()
    run = {"scale": partial(scale, sizes=CELLS), "large": partial(scale, sizes=LARGE), "quality": quality,
           "faults": faults, "cluster": cluster}  # fmt: skip
    for part in args.parts:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            lines = run[part](Path(folder))
        print(f"## {TITLES[part]}\n", *lines, sep="\n", flush=True)
        save({part: lines})


if __name__ == "__main__":
    main()
