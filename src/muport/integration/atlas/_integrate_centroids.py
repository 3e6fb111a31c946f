"""integrate_centroids: out of core, on one machine or a cluster, resumable."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._keys import UNLABELED_CATEGORY
from muport.data.out_of_core._cell_chunks import CellChunks, open_chunks
from muport.data.out_of_core._disk_arrays import open_root
from muport.data.out_of_core._result_obs import add_obs
from muport.data.out_of_core._result_sinks import FileSink, MemorySink, clean_path, full_disk
from muport.integration._hyperparameters import Hyperparameters
from muport.integration.atlas._centroid_fit import CentroidOptions, fit_centroids
from muport.integration.atlas._chunk_map import Job, device_for, layout, map_chunks, map_on_cluster
from muport.integration.atlas._sampling import count_groups
from muport.integration.shared_centers._fit import FitOptions, IntegrationFit

if TYPE_CHECKING:
    import anndata
    import mudata

    from muport.integration._fitted_state import IntegrationState

__all__ = ["integrate_centroids"]

_BACKENDS = ("torch", "pot")


def integrate_centroids(
    adata_full: anndata.AnnData | mudata.MuData | str | Path,
    obsm_key: str = "X_pca",
    batch_key: str = "batch",
    out_key: str = "scBIOT",
    modality: str = "auto",
    strength: float = 0.5,
    conservation: float = 0.5,
    prototypes: float = 0.5,
    sharpen: float = 0.5,
    supervision: float = 0.5,
    projector: float = 0.5,
    approximate: bool = False,
    reference: str = "auto",
    label_key: str | None = None,
    unlabeled_category: Any = UNLABELED_CATEGORY,
    random_state: int = 0,
    n_centroids_per_batch: int = 2048,
    max_samples_per_batch: int = 500_000,
    k_interp: int = 8,
    chunk_size: int = 500_000,
    use_gpu: bool = True,
    gpu_device: int = 0,
    ot_backend: str = "torch",
    max_iter: int = 15,
    verbose: bool = True,
    tmp_path: str | Path | None = None,
    client: Any | None = None,
    resume: bool = True,
) -> tuple[anndata.AnnData | mudata.MuData | Path, dict[str, float]]:
    """Integrate batches of any number of cells: memory does not grow with them.

    One sequential pass samples every batch; the sample is clustered, batch by batch, and the weighted centroids are
    transported by the functions of :class:`Integration`. A second pass moves every cell by the displacements of the
    nearest centroids of its own batch, while the next rows are read and the last ones written. The place of a cell is a
    function of its coordinates, its batch and the fitted state, as in :meth:`Integration.map_query`.

    Parameters
    ----------
    adata_full
        AnnData (in memory, backed, or lazy: dask arrays, ``anndata.experimental.read_lazy``), MuData, or a path or URL
        of ``.h5ad``, ``.h5mu`` or ``.zarr``. Files are read by rows, and never written to.
    obsm_key
        Key of the embedding.
    batch_key
        Column of ``obs`` with the batch of each cell; it is read without the embedding.
    out_key
        Key of the result in ``obsm``.
    modality
        Modality of a MuData. For an AnnData ``"rna"``, ``"atac"``, or ``"auto"``: ATAC if the key says so ("lsi" or
        "atac"). Rows of ATAC are scaled to norm 1 first, which takes the sequencing depth out.
    strength, conservation, prototypes, sharpen, supervision, projector
        Hyperparameters of :class:`Integration`, 0..1.
    approximate
        Stop the inner transport after at most 10 sweeps.
    reference
        As in :class:`Integration`: ``"auto"``, ``"union"``, ``"largest"`` or the name of a batch.
    label_key
        Column of ``obs`` with the type of each cell, where it is known; it takes part as in :class:`Integration`.
    unlabeled_category
        Value of that column that means "not known", as do missing values.
    random_state
        Seed; the same seed gives the same result, bit by bit, on one machine.
    n_centroids_per_batch
        Most centroids of a batch. A batch of s sampled cells has 3 sqrt(s), at most 400, times twice `prototypes`:
        as many as in memory. All batches together have at most 32,768.
    max_samples_per_batch
        Most cells of a batch that are sampled; all samples together take at most 64 MB.
    k_interp
        Centroids of its own batch that carry a cell.
    chunk_size
        Cells that are finished, recorded and, on a cluster, sent out together. Memory does not depend on it.
    use_gpu, gpu_device
        Run transport and search on this GPU, if there is one; each worker of a cluster looks for its own.
    ot_backend
        ``"torch"``, or ``"pot"`` to keep the transport on the CPU, where POT is at home: the same problem by the same
        solver, for POT's stabilised unbalanced one is wrong at small regularisation.
    max_iter
        Most outer iterations.
    verbose
        Show a progress bar.
    tmp_path
        Where the result goes: ``.zarr``, or a NumPy file that is read through a memory map (``.npy``, added if
        missing). It is written beside, as ``<tmp_path>.partial``, and takes its name when it is whole. None: the result
        is an array in memory.
    client
        ``dask.distributed.Client``: chunks become tasks of its workers, which write to one zarr on a file system that
        all see. It needs a `tmp_path` that ends in ``.zarr``.
    resume
        Go on where an earlier, interrupted call with the same input and arguments stopped; its result is that of a call
        that was not interrupted. If it was finished, its result is returned. False: start anew.

    Returns
    -------
    ``(adata, metrics)``. Given an AnnData or MuData, it is returned with ``obsm[out_key]`` (of the modality): an array,
    a memory map, or a dask array (a zarr array without dask). Given a path, it is the path of the result, a ``.zarr``
    that anndata reads, with the input's ``obs``; without `tmp_path` a new AnnData with ``obs`` and the result.
    The metrics are those of the fit, with ``n_cells``, ``n_sampled``, ``n_centroids``, ``peak_memory`` (bytes, of this
    process), and ``seconds_sample``, ``seconds_fit``, ``seconds_map``, ``seconds_total``.

    Raises
    ------
    FileNotFoundError, KeyError
        If the file, key, column or modality is missing; says which exist.
    FileExistsError
        If `tmp_path` holds something else than the result of this call.
    OSError
        If the disk is full or rows cannot be read. The input stays as it is, and the chunks that were finished count in
        the next call.
    TypeError, ValueError
        If an argument is out of range, or a cell has no batch or a coordinate that is not finite.

    Notes
    -----
    On a cluster the sample and the fit stay in the calling process; the workers map chunks and write disjoint chunks of
    one zarr. A worker that dies loses at most the chunk in hand, which another one writes again; a driver that dies is
    called again. On SLURM, with ``dask-jobqueue`` (``tmp_path`` on the shared file system)::

        from dask.distributed import Client
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(cores=4, processes=1, memory="4GB", walltime="01:00:00", death_timeout=120)
        cluster.scale(jobs=16)
        muport.integrate_centroids("atlas.zarr", tmp_path="/shared/out.zarr", client=Client(cluster))

    On Kubernetes, with ``dask-kubernetes``, the cluster is ``KubeCluster(name="atlas", image=..., n_workers=16)``, with
    an image that holds muport and a volume that all pods can write to. One process a worker is enough: each maps on all
    its cores while it reads and writes. Beside a finished ``.npy`` lies ``.npy.json``, by which the same call knows it.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_multiome(n_cells=300, random_state=0)["rna"].copy()
    >>> adata.obsm["X_pca"] = adata.X[:, :10].toarray()
    >>> adata, metrics = muport.integrate_centroids(adata, verbose=False)
    >>> adata.obsm["scBIOT"].shape
    (300, 10)

    References
    ----------
    Zhang and Qin, scBIOT, ``integrate_centroids``; there the nearest centroids of all batches carry a cell, and
    displacements that point apart cancel.
    """
    _check_integers(
        n_centroids_per_batch=n_centroids_per_batch, max_samples_per_batch=max_samples_per_batch, k_interp=k_interp,
        chunk_size=chunk_size, max_iter=max_iter,
    )  # fmt: skip
    if ot_backend not in _BACKENDS:
        raise ValueError(f"ot_backend={ot_backend!r} is unknown: use 'torch' or 'pot'.")
    _check_integers(0, random_state=random_state, gpu_device=gpu_device)
    hyperparameters = Hyperparameters(strength, conservation, prototypes, sharpen, supervision, projector)
    path = None if tmp_path is None else clean_path(tmp_path)
    if client is not None and (path is None or path.suffix != ".zarr"):
        raise ValueError(f"tmp_path={tmp_path!r}: with client=, name a .zarr on a file system that all workers see.")
    cells = open_chunks(adata_full, obsm_key, batch_key, label_key, unlabeled_category, modality)
    device = device_for(f"cuda:{gpu_device}") if use_gpu else "cpu"
    plan = _Plan(
        cells,
        hyperparameters,
        FitOptions(max_iter, approximate, (), random_state, "cpu" if ot_backend == "pot" else device),
        CentroidOptions(n_centroids_per_batch, max_samples_per_batch, k_interp),
        reference,
        chunk_size,
        f"cuda:{gpu_device}" if use_gpu else "cpu",
    )
    with _bar(verbose) as bar:
        sink, metrics = _run(plan, path, out_key, client, resume, bar, getattr(adata_full, "obs", None))
    return _answer(adata_full, cells, sink, out_key), metrics


def _check_integers(least: int = 1, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is to be done, checked."""

    cells: CellChunks
    hyperparameters: Hyperparameters
    options: FitOptions
    centroids: CentroidOptions
    reference: str
    chunk_size: int
    device: str

    def fixed(self) -> tuple[str, ...]:
        """Names of the batches that stay in place."""
        names = self.cells.batch.names
        if self.reference in ("auto", "union"):
            return ()
        if self.reference == "largest":
            size = count_groups(lambda: self.cells.batch.blocks(self.cells.shape[0]), len(names))
            return (names[int(size.argmax())],)
        if self.reference not in names:
            known = ", ".join(map(repr, ("auto", "union", "largest", *names[:20])))
            raise ValueError(f"reference={self.reference!r} is unknown: use one of {known}.")
        return (self.reference,)

    def fingerprint(self, piece: int, out_key: str) -> str:
        """What the result depends on: the same for calls that may share their chunks."""
        text = {
            "version": version("muport"),
            "cells": self.cells.signature(),
            "unit": self.cells.unit,
            "batch": self.cells.batch.signature(self.cells.shape[0]),
            "piece": piece,
            "chunk_size": self.chunk_size,
            "label": self.cells.label.signature(self.cells.shape[0]) if self.cells.label else None,
            "hyperparameters": asdict(self.hyperparameters),
            "options": asdict(self.options),
            "centroids": asdict(self.centroids),
            "reference": self.reference,
            "device": self.device,
            "out_key": out_key,
        }
        return hashlib.sha256(json.dumps(text, sort_keys=True, default=int).encode()).hexdigest()


def _run(
    plan: _Plan, path: Path | None, out_key: str, client: Any, resume: bool, bar: Progress, obs: Any
) -> tuple[MemorySink | FileSink, dict[str, float]]:
    begin = time.perf_counter()
    fixed = plan.fixed()
    piece, chunks = layout(plan.cells.shape, plan.cells.step, plan.chunk_size)
    sink: MemorySink | FileSink
    left = chunks
    fingerprint = ""
    if path is None:
        sink = MemorySink(plan.cells.shape)
    else:
        sink = FileSink(path, plan.cells.shape, piece, out_key)
        fingerprint = plan.fingerprint(piece, out_key)
        if resume and sink.fingerprint() == fingerprint:
            return sink, sink.metrics()
        if sink.begin(fingerprint, resume):
            left = [chunk for chunk in chunks if not sink.is_done(*chunk)]
    try:
        state, metrics = _fitted(plan, sink, fixed, bar)
        mapping = time.perf_counter()
        _map(plan, sink, state, piece, left, client, bar)
        metrics |= {"seconds_map": time.perf_counter() - mapping, "n_cells": float(plan.cells.shape[0])}
        metrics |= {"peak_memory": _peak_memory(), "seconds_total": time.perf_counter() - begin}
        if isinstance(sink, MemorySink):
            return sink, metrics
        if sink.is_zarr:
            add_obs(sink.result, obs if hasattr(obs, "iloc") else None, plan.cells.path, plan.cells.modality)
        sink.finish(fingerprint, metrics)
    except OSError as error:
        raise (full_disk(error, path) if path else error) from error
    return sink, metrics


def _fitted(
    plan: _Plan, sink: MemorySink | FileSink, fixed: tuple[str, ...], bar: Progress
) -> tuple[IntegrationState, dict[str, float]]:
    """Fit, or read what an interrupted call had fitted: all chunks go through one and the same map."""
    kept = sink.kept("fit", IntegrationFit) if isinstance(sink, FileSink) else None
    if kept is not None:
        return kept.state, dict(kept.metrics)
    task = bar.add_task("sample", total=plan.options.max_iter + 6)
    times: list[float] = [time.perf_counter()]

    def progress(stage: str) -> None:
        if stage == "evidence":
            times.append(time.perf_counter())
        bar.update(task, advance=1, description=stage)

    cells, n = plan.cells, plan.cells.shape[0]
    label = cells.label
    found = fit_centroids(
        cells.read, lambda: cells.batch.blocks(n), cells.batch.names, cells.shape, plan.hyperparameters, plan.options,
        plan.centroids, labels=None if label is None or not label.names else lambda: label.blocks(n), fixed=fixed,
        step=layout(cells.shape, cells.step, n)[0], progress=progress,
    )  # fmt: skip
    bar.update(task, completed=plan.options.max_iter + 6)
    times.append(time.perf_counter())
    seconds = {"seconds_sample": times[1] - times[0], "seconds_fit": times[-1] - times[1]}
    found = IntegrationFit(found.state, found.metrics | seconds, found.history)
    if isinstance(sink, FileSink):
        sink.keep("fit", found)
    return found.state, dict(found.metrics)


def _map(
    plan: _Plan, sink: MemorySink | FileSink, state: IntegrationState, piece: int, left: list[tuple[int, int, int]],
    client: Any, bar: Progress,
) -> None:  # fmt: skip
    place = dict(zip(state.groups, state.map_of_group, strict=True))
    member = np.array([place.get(name, -1) for name in plan.cells.batch.names], dtype=np.int64)
    job = Job(plan.cells, sink, state, member, piece, plan.device)
    task = bar.add_task("map", total=sum(stop - start for _, start, stop in left))

    def progress(rows: int) -> None:
        bar.update(task, advance=rows)

    if client is None:
        map_chunks(job, left, progress)
    else:
        map_on_cluster(job, left, client, progress)


def _bar(show: bool) -> Progress:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, disable=not show)


def _answer(data: Any, cells: CellChunks, sink: MemorySink | FileSink, out_key: str) -> Any:
    if cells.path is None:
        part = data if cells.modality is None else data.mod[cells.modality]
        part.obsm[out_key] = sink.values if isinstance(sink, MemorySink) else sink.open()
        return data
    if isinstance(sink, FileSink):
        return sink.path
    import anndata

    prefix = f"mod/{cells.modality}/" if cells.modality else ""
    found = anndata.AnnData(obs=anndata.io.read_elem(open_root(cells.path)[f"{prefix}obs"]))
    found.obsm[out_key] = sink.values
    return found


def _peak_memory() -> float:
    """Highest resident memory of this process so far, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
