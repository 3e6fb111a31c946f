"""integrate_centroids: out of core, on one machine or on a cluster, resumable."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._checks import check_integers, check_option, check_seed
from muport._keys import UNLABELED_CATEGORY
from muport.data.out_of_core._cell_chunks import CellChunks, open_chunks
from muport.data.out_of_core._disk_arrays import open_root
from muport.data.out_of_core._result_obs import add_obs
from muport.data.out_of_core._result_sinks import FileSink, MemorySink, clean_path, full_disk
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.atlas._centroid_fit import CentroidOptions, fit_centroids
from muport.integration.atlas._chunk_map import Job, find_device, map_chunks, map_on_cluster, split_rows
from muport.integration.atlas._sampling import CellSource, count_groups
from muport.integration.shared_centers._fit import IntegrationFit

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
    nearest centroids of its own batch, while the next rows are read and the last ones are written. The result of a cell
    is a function of its coordinates, its batch and the fitted state, as in :meth:`Integration.map_query`.

    Parameters
    ----------
    adata_full
        AnnData (in memory, backed, or lazy: dask arrays, ``anndata.experimental.read_lazy``), MuData, or a path or URL
        of ``.h5ad``, ``.h5mu`` or ``.zarr``. Files are read by rows and never changed.
    obsm_key
        Key of the embedding.
    batch_key
        Column of ``obs`` with the batch of each cell; it is read without the embedding.
    out_key
        Key of the result in ``obsm``.
    modality
        Modality of a MuData. For an AnnData ``"rna"``, ``"atac"`` or ``"auto"``, which means ATAC if the key contains
        "lsi" or "atac". Rows of ATAC are scaled to norm 1 first, which removes the sequencing depth.
    strength, conservation, prototypes, sharpen, supervision, projector
        Hyperparameters of :class:`Integration`, 0..1.
    approximate
        Stop the inner transport after at most 10 Sinkhorn iterations.
    reference
        As in :class:`Integration`: ``"auto"``, ``"union"``, ``"largest"`` or the name of a batch.
    label_key
        Column of ``obs`` with the type of each cell, where it is known; it is used as in :class:`Integration`.
    unlabeled_category
        Value of that column that means "not known", as do missing values.
    random_state
        Seed; the same seed gives the same result, bit by bit, on one machine.
    n_centroids_per_batch
        Maximum number of centroids of a batch. A batch of s sampled cells has 3 sqrt(s), at most 400, times twice
        `prototypes`, as in memory. All batches together have at most 32,768.
    max_samples_per_batch
        Maximum number of cells of a batch that are sampled; all samples together take at most 64 MB.
    k_interp
        Number of nearest centroids of its own batch from which a cell gets its displacement.
    chunk_size
        Number of cells that are completed, recorded and, on a cluster, submitted together. Memory does not depend on
        it.
    use_gpu, gpu_device
        Run transport and neighbor search on this GPU, if it exists; each worker of a cluster uses its own.
    ot_backend
        ``"torch"``, or ``"pot"`` to keep the transport on the CPU. Both use the same solver, since the
        stabilized unbalanced solver of POT is wrong at small regularization.
    max_iter
        Maximum number of outer iterations.
    verbose
        Show a progress bar.
    tmp_path
        Path of the result: ``.zarr``, or a NumPy file that is read through a memory map (``.npy``, added if missing).
        It is written to ``<tmp_path>.partial`` and renamed when it is complete. None: the result is an array in memory.
    client
        ``dask.distributed.Client``. Chunks become tasks of its workers, which write to one zarr on a shared file
        system. It needs a `tmp_path` that ends in ``.zarr``.
    resume
        Continue an earlier, interrupted call with the same input and arguments; the result is that of a call that was
        not interrupted. If the earlier call was complete, its result is returned. False: start again.

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
        If the file, key, column or modality is missing; the message lists those that exist.
    FileExistsError
        If `tmp_path` exists and is not a result of this call.
    OSError
        If the disk is full or rows cannot be read. The input is not changed, and the next call continues after the
        completed chunks.
    TypeError, ValueError
        If an argument is out of range, or a cell has no batch or a coordinate that is not finite.

    Notes
    -----
    On a cluster, the calling process samples and fits, and the workers map chunks and write disjoint chunks of one
    zarr. If a worker fails, another one repeats its chunk. If the calling process fails, call again. On SLURM, with
    ``dask-jobqueue`` (``tmp_path`` on the shared file system)::

        from dask.distributed import Client
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(cores=4, processes=1, memory="4GB", walltime="01:00:00", death_timeout=120)
        cluster.scale(jobs=16)
        muport.integrate_centroids("atlas.zarr", tmp_path="/shared/out.zarr", client=Client(cluster))

    On Kubernetes, with ``dask-kubernetes``, the cluster is ``KubeCluster(name="atlas", image=..., n_workers=16)``, with
    an image that contains muport and a volume that all pods can write to. One process per worker is enough: it maps on
    all its cores while it reads and writes. A complete ``.npy`` has a file ``.npy.json``, by which the same call
    recognizes it.

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
    Zhang and Qin, scBIOT, ``integrate_centroids``. There, the nearest centroids of all batches move a cell, and their
    displacements cancel in part.
    """
    check_integers(
        n_centroids_per_batch=n_centroids_per_batch,
        max_samples_per_batch=max_samples_per_batch,
        k_interp=k_interp,
        chunk_size=chunk_size,
        max_iter=max_iter,
    )
    check_option("ot_backend", ot_backend, _BACKENDS)
    check_seed(random_state)
    check_integers(0, gpu_device=gpu_device)
    hyperparameters = Hyperparameters(strength, conservation, prototypes, sharpen, supervision, projector)
    path = None if tmp_path is None else clean_path(tmp_path)
    if client is not None and (path is None or path.suffix != ".zarr"):
        raise ValueError(f"tmp_path={tmp_path!r}: with client=, name a .zarr on a file system that all workers see.")
    requested_device = f"cuda:{gpu_device}" if use_gpu else "cpu"
    fit_device = "cpu" if ot_backend == "pot" else find_device(requested_device)
    call = _AtlasCall(
        cells=open_chunks(adata_full, obsm_key, batch_key, label_key, unlabeled_category, modality),
        hyperparameters=hyperparameters,
        options=FitOptions(max_iter, approximate, (), random_state, fit_device),
        centroids=CentroidOptions(n_centroids_per_batch, max_samples_per_batch, k_interp),
        reference=reference,
        chunk_size=chunk_size,
        device=requested_device,
        out_key=out_key,
    )
    with _progress_bar(verbose) as bar:
        sink, metrics = _run(call, path, client, resume, bar, getattr(adata_full, "obs", None))
    return _wrap_result(adata_full, call, sink), metrics


@dataclass(frozen=True, eq=False)
class _AtlasCall:
    """Checked arguments of a call.

    - `cells`: The cells, read by rows.
    - `hyperparameters`, `options`, `centroids`: How to fit.
    - `reference`: ``"auto"``, ``"union"``, ``"largest"`` or the name of a batch.
    - `chunk_size`: Number of cells that are completed together.
    - `device`: Requested torch device of the mapping.
    - `out_key`: Key of the result.
    """

    cells: CellChunks
    hyperparameters: Hyperparameters
    options: FitOptions
    centroids: CentroidOptions
    reference: str
    chunk_size: int
    device: str
    out_key: str

    def find_fixed_batches(self) -> tuple[str, ...]:
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

    def fingerprint(self, piece: int) -> str:
        """Hash of everything that the result depends on: calls with the same hash may share their chunks."""
        n = self.cells.shape[0]
        text = {
            "version": version("muport"),
            "cells": self.cells.signature(),
            "unit": self.cells.unit,
            "batch": self.cells.batch.signature(n),
            "label": self.cells.label.signature(n) if self.cells.label else None,
            "piece": piece,
            "chunk_size": self.chunk_size,
            "hyperparameters": asdict(self.hyperparameters),
            "options": asdict(self.options),
            "centroids": asdict(self.centroids),
            "reference": self.reference,
            "device": self.device,
            "out_key": self.out_key,
        }
        return hashlib.sha256(json.dumps(text, sort_keys=True, default=int).encode()).hexdigest()


def _run(
    call: _AtlasCall, path: Path | None, client: Any, resume: bool, bar: Progress, obs: Any
) -> tuple[MemorySink | FileSink, dict[str, float]]:
    """Fit, map all chunks that are not done yet, and measure time and memory."""
    begin = time.perf_counter()
    fixed = call.find_fixed_batches()
    piece, chunks = split_rows(call.cells.shape, call.cells.step, call.chunk_size)
    sink: MemorySink | FileSink
    remaining = chunks
    fingerprint = ""
    if path is None:
        sink = MemorySink(call.cells.shape)
    else:
        sink = FileSink(path, call.cells.shape, piece, call.out_key)
        fingerprint = call.fingerprint(piece)
        if resume and sink.fingerprint() == fingerprint:
            return sink, sink.metrics()
        if sink.begin(fingerprint, resume):
            remaining = [chunk for chunk in chunks if not sink.is_done(*chunk)]
    try:
        state, metrics = _fit_or_resume(call, sink, fixed, bar)
        mapping = time.perf_counter()
        _map_remaining_chunks(_build_job(call, sink, state, piece), remaining, client, bar)
        metrics |= {"seconds_map": time.perf_counter() - mapping, "n_cells": float(call.cells.shape[0])}
        metrics |= {"peak_memory": _measure_peak_memory(), "seconds_total": time.perf_counter() - begin}
        if isinstance(sink, MemorySink):
            return sink, metrics
        if sink.is_zarr:
            add_obs(sink.result, obs if hasattr(obs, "iloc") else None, call.cells.path, call.cells.modality)
        sink.finish(fingerprint, metrics)
    except OSError as error:
        raise (full_disk(error, path) if path else error) from error
    return sink, metrics


def _fit_or_resume(
    call: _AtlasCall, sink: MemorySink | FileSink, fixed: tuple[str, ...], bar: Progress
) -> tuple[IntegrationState, dict[str, float]]:
    """Fit, or read the fit of an interrupted call, so that all chunks are mapped by the same state."""
    stored = sink.kept("fit", IntegrationFit) if isinstance(sink, FileSink) else None
    if stored is not None:
        return stored.state, dict(stored.metrics)
    n_stages = call.options.max_iter + 6
    task = bar.add_task("sample", total=n_stages)
    times: list[float] = [time.perf_counter()]

    def progress(stage: str) -> None:
        if stage == "evidence":
            # the first stage after the sample is drawn
            times.append(time.perf_counter())
        bar.update(task, advance=1, description=stage)

    cells, label, n = call.cells, call.cells.label, call.cells.shape[0]
    source = CellSource(
        read=cells.read,
        blocks=lambda: cells.batch.blocks(n),
        names=cells.batch.names,
        shape=cells.shape,
        labels=None if label is None or not label.names else lambda: label.blocks(n),
    )
    step = split_rows(cells.shape, cells.step, n)[0]
    fit = fit_centroids(
        source, call.hyperparameters, call.options, call.centroids, fixed=fixed, step=step, progress=progress
    )
    bar.update(task, completed=n_stages)
    times.append(time.perf_counter())
    seconds = {"seconds_sample": times[1] - times[0], "seconds_fit": times[-1] - times[1]}
    fit = replace(fit, metrics=fit.metrics | seconds)
    if isinstance(sink, FileSink):
        sink.keep("fit", fit)
    return fit.state, dict(fit.metrics)


def _build_job(call: _AtlasCall, sink: MemorySink | FileSink, state: IntegrationState, piece: int) -> Job:
    positions = dict(zip(state.groups, state.map_of_group, strict=True))
    map_of_group = np.array([positions.get(name, -1) for name in call.cells.batch.names], dtype=np.int64)
    return Job(call.cells, sink, state, map_of_group, piece, call.device)


def _map_remaining_chunks(job: Job, chunks: list[tuple[int, int, int]], client: Any, bar: Progress) -> None:
    task = bar.add_task("map", total=sum(stop - start for _, start, stop in chunks))

    def progress(rows: int) -> None:
        bar.update(task, advance=rows)

    if client is None:
        map_chunks(job, chunks, progress)
    else:
        map_on_cluster(job, chunks, client, progress)


def _progress_bar(show: bool) -> Progress:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, disable=not show)


def _wrap_result(data: Any, call: _AtlasCall, sink: MemorySink | FileSink) -> Any:
    """Add the result to the data in memory, or return its path, or an AnnData of the cells of a file."""
    cells = call.cells
    if cells.path is None:
        adata = data if cells.modality is None else data.mod[cells.modality]
        adata.obsm[call.out_key] = sink.values if isinstance(sink, MemorySink) else sink.open()
        return data
    if isinstance(sink, FileSink):
        return sink.path
    import anndata

    prefix = f"mod/{cells.modality}/" if cells.modality else ""
    adata = anndata.AnnData(obs=anndata.io.read_elem(open_root(cells.path)[f"{prefix}obs"]))
    adata.obsm[call.out_key] = sink.values
    return adata


def _measure_peak_memory() -> float:
    """Highest resident memory of this process so far, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
