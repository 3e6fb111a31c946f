"""integrate_centroids: out of core, on one machine or on a cluster, resumable."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._checks import check_columns, check_integers, check_option, check_seed
from muport._keys import UNLABELED_CATEGORY
from muport.data import accept_data_names, match_names
from muport.data._durable_files import claimed, clear, partial_folder
from muport.data.out_of_core._cell_chunks import CellChunks, open_chunks
from muport.data.out_of_core._fingerprint import HashedRows, describe_columns
from muport.data.out_of_core._result_obs import add_obs, read_obs
from muport.data.out_of_core._result_sinks import FileSink, MemorySink, clean_path, full_disk
from muport.integration._batch_design import Strengths
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.atlas._centroid_fit import CentroidOptions, fit_centroids
from muport.integration.atlas._chunk_map import Job, find_device, map_chunks, map_on_cluster, split_rows
from muport.integration.atlas._earlier_runs import EarlierRuns
from muport.integration.atlas._sampling import CellSource, count_groups
from muport.integration.batch_variables._confounding import design_of_batches
from muport.integration.shared_centers._fit import IntegrationFit
from muport.integration.shared_centers._variable_maps import describe_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    import mudata

    from muport.integration._fitted_state import IntegrationState
    from muport.integration.atlas._chunk_map import Chunk
    from muport.integration.atlas._sampling import Read

__all__ = ["integrate_centroids"]

_BACKENDS = ("torch", "pot")


@accept_data_names
def integrate_centroids(
    adata_full: anndata.AnnData | mudata.MuData | str | Path,
    obsm_key: str = "X_pca",
    batch_key: str | Sequence[str] = "batch",
    out_key: str = "scBIOT",
    modality: str = "auto",
    strength: float | Mapping[str, float] = 0.5,
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
    overwrite: bool = False,
    continuous_covariate_keys: Sequence[str] | None = None,
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
        Column of ``obs`` with the batch of each cell, or a list of columns; they are read without the embedding.
    out_key
        Key of the result in ``obsm``.
    modality
        Modality of a MuData. For an AnnData ``"rna"``, ``"atac"`` or ``"auto"``, which means ATAC if the key contains
        "lsi" or "atac". Rows of ATAC are scaled to norm 1 first, which removes the sequencing depth.
    strength, conservation, prototypes, sharpen, supervision, projector
        Hyperparameters of :class:`Integration`, 0..1; `strength` may be a dict, as there.
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
        It is written to the folder ``<tmp_path>.partial`` and renamed when it is complete. None: the result is an array
        in memory.
    client
        ``dask.distributed.Client``. Chunks become tasks of its workers, which write to one zarr on a shared file
        system. It needs a `tmp_path` that ends in ``.zarr``.
    resume
        Continue an earlier, interrupted call with the same input and arguments; the result is that of a call that was
        not interrupted. If the earlier call was complete, its result is returned. The earlier call is recognized by a
        hash of all coordinates, batches and labels (and cell names, in a ``.zarr``), the arguments and the version of
        muport. False: start again.
    overwrite
        Replace what is at `tmp_path`. It keeps its name until the new result is complete. An unfinished result of this
        very call is continued, as `resume` says.
    continuous_covariate_keys
        Columns of ``obs`` with numbers whose effect is removed, as in :meth:`Integration.setup_mudata`.

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
        If `tmp_path`, or an unfinished result, is not that of this very call, or another process writes it; names what
        differs.
    OSError
        If the disk is full or rows cannot be read. The input is not changed, and the next call continues after the
        completed chunks.
    TypeError, ValueError
        If an argument is out of range, a column is named twice, batch variables that divide the cells alike have
        different strengths, a covariate is constant, or a cell has no batch or a coordinate or covariate that is not
        finite.

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
    if not isinstance(out_key, str) or not out_key or "/" in out_key or out_key == obsm_key:
        raise ValueError(f"out_key={out_key!r} must be a name without '/', other than obsm_key={obsm_key!r}.")
    check_seed(random_state)
    check_integers(0, gpu_device=gpu_device)
    batch_keys, covariate_keys = _check_keys(batch_key, continuous_covariate_keys)
    strengths = Strengths.of(strength, batch_keys, covariate_keys or ())
    hyperparameters = Hyperparameters(strengths.fit, conservation, prototypes, sharpen, supervision, projector)
    path = None if tmp_path is None else clean_path(tmp_path)
    if client is not None and (path is None or path.suffix != ".zarr"):
        raise ValueError(f"tmp_path={tmp_path!r}: with client=, name a .zarr on a file system that all workers see.")
    requested_device = f"cuda:{gpu_device}" if use_gpu else "cpu"
    fit_device = "cpu" if ot_backend == "pot" else find_device(requested_device)
    call = _AtlasCall(
        cells=open_chunks(adata_full, obsm_key, batch_keys, label_key, unlabeled_category, modality, covariate_keys),
        hyperparameters=hyperparameters,
        options=FitOptions(max_iter, approximate, (), random_state, fit_device),
        centroids=CentroidOptions(n_centroids_per_batch, max_samples_per_batch, k_interp),
        reference=reference,
        chunk_size=chunk_size,
        device=requested_device,
        out_key=out_key,
        strengths=strengths,
    ).with_design()
    if path is not None and call.cells.path is not None and path == Path(call.cells.path).absolute():
        raise ValueError(f"tmp_path={str(tmp_path)!r} is the input, which is never changed: choose another path.")
    call.find_fixed_batches()
    obs = getattr(adata_full, "obs", None)
    output = _Output(path, resume, overwrite, client, obs if hasattr(obs, "iloc") else None)
    with _progress_bar(verbose) as bar:
        sink, metrics = _run(call, output, bar)
    return _wrap_result(adata_full, call, sink), metrics


def _check_keys(batch_key: Any, covariate_keys: Any) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the names of the batch columns and of the covariates; None without covariates."""
    if not isinstance(batch_key, str):
        check_columns("batch_key", batch_key, "the name of one column")
    batch_keys = (batch_key,) if isinstance(batch_key, str) else tuple(batch_key)
    if covariate_keys is None:
        return batch_keys, None
    check_columns("continuous_covariate_keys", covariate_keys, "None for no covariates")
    if both := [key for key in covariate_keys if key in batch_keys]:
        raise ValueError(
            f"{both[0]!r} is named in batch_key and in continuous_covariate_keys: leave it out of one of them."
        )
    return batch_keys, tuple(covariate_keys)


@dataclass(frozen=True, eq=False)
class _AtlasCall:
    """Checked arguments of a call.

    - `cells`: The cells, read by rows.
    - `hyperparameters`, `options`, `centroids`: How to fit.
    - `reference`: ``"auto"``, ``"union"``, ``"largest"`` or the name of a batch.
    - `chunk_size`: Number of cells that are completed together.
    - `device`: Requested torch device of the mapping.
    - `out_key`: Key of the result.
    - `strengths`: Strengths of the batch variables and of the covariates.
    """

    cells: CellChunks
    hyperparameters: Hyperparameters
    options: FitOptions
    centroids: CentroidOptions
    reference: str
    chunk_size: int
    device: str
    out_key: str
    strengths: Strengths

    def with_design(self) -> _AtlasCall:
        """Add the design of several batch variables; refuse different strengths of what cannot be separated."""
        names = self.cells.batch.names
        size = count_groups(lambda: self.cells.batch.blocks(self.cells.shape[0]), len(names))
        design = design_of_batches(names, size.tolist(), self.strengths)
        return self if design is None else replace(self, options=replace(self.options, design=design))

    def find_fixed_batches(self) -> tuple[str, ...]:
        """Names of the batches that stay in place."""
        names = self.cells.batch.names
        if self.reference in ("auto", "union"):
            return ()
        size = count_groups(lambda: self.cells.batch.blocks(self.cells.shape[0]), len(names))
        if self.reference == "largest":
            return (names[int(size.argmax())],)
        present = [name for name, n_cells in zip(names, size, strict=True) if n_cells]
        name = match_names([(str(self.reference),)], present)[0][0]
        if name not in present:
            known = ", ".join(map(repr, ("auto", "union", "largest", *present[:20])))
            raise ValueError(f"reference={self.reference!r} is unknown: use one of {known}.")
        return (name,)

    def describe(self, names: bool) -> dict[str, Any]:
        """Describe everything that the result depends on but the coordinates, which are hashed when they are read.

        - `names`: Whether the names of the cells are part of the result.
        """
        strengths = {**self.strengths.of_batches, **self.strengths.of_covariates}
        return {
            "version": version("muport"),
            **asdict(self.hyperparameters),
            **({"strengths": strengths} if len(strengths) > 1 else {}),
            "approximate": bool(self.options.approximate),
            "reference": self.reference,
            "random_state": int(self.options.seed),
            "n_centroids_per_batch": int(self.centroids.n_centroids),
            "max_samples_per_batch": int(self.centroids.max_samples),
            "k_interp": int(self.centroids.k_interp),
            "chunk_size": int(self.chunk_size),
            "max_iter": int(self.options.max_iter),
            "device": [self.options.device, find_device(self.device)],
            "out_key": self.out_key,
            "rows_together": self.cells.step,
            **describe_columns(self.cells, names),
        }


@dataclass(frozen=True, eq=False)
class _Output:
    """Where the result is written, and how.

    - `path`: Path of the result; None for an array in memory.
    - `resume`, `overwrite`: Whether to continue an unfinished result, and to replace a finished one.
    - `client`: Client of the cluster that maps the chunks; None for this process.
    - `obs`: Data frame of the cells; None for those of a file.
    """

    path: Path | None
    resume: bool
    overwrite: bool
    client: Any
    obs: Any


def _run(call: _AtlasCall, output: _Output, bar: Progress) -> tuple[MemorySink | FileSink, dict[str, float]]:
    """Fit, map all chunks that are not done yet, and measure time and memory."""
    begin = time.perf_counter()
    piece, chunks = split_rows(call.cells.shape, call.cells.step, call.chunk_size)
    if output.path is None:
        memory = MemorySink(call.cells.shape)
        fit = _fit(call, call.cells.read, bar)
        return memory, _map_chunks(_build_job(call, memory, fit.state, piece), fit, chunks, output, bar, begin)
    sink = FileSink(output.path, call.cells.shape, piece, call.out_key)
    try:
        with claimed(output.path, resumable=True):
            return sink, _run_to_file(call, sink, output, chunks, bar, begin)
    except OSError as error:
        raise full_disk(error, output.path) from error


def _run_to_file(
    call: _AtlasCall, sink: FileSink, output: _Output, chunks: list[Chunk], bar: Progress, begin: float
) -> dict[str, float]:
    """Return the finished result of the same call, continue its unfinished one, or start."""
    rows = HashedRows(call.cells, sink.piece)
    earlier = EarlierRuns(sink, call.describe(names=sink.is_zarr), rows)
    if sink.path.exists() and not output.overwrite:
        return earlier.get_finished(output.resume)
    remaining, fit = chunks, None
    if earlier.has_unfinished(output.resume, output.overwrite):
        remaining = [chunk for chunk in chunks if not sink.is_done(*chunk)]
        fit = sink.kept("fit", IntegrationFit)
    else:
        sink.begin(earlier.job)
    if fit is None:
        rows = HashedRows(call.cells, sink.piece)
        try:
            fit = _fit(call, rows.read, bar)
        except ValueError:  # the cells are refused, so there is nothing to continue
            clear(partial_folder(sink.path))
            raise
        sink.keep("fit", fit)
        sink.describe({**earlier.job, "coordinates": rows.digest()})
    metrics = _map_chunks(_build_job(call, sink, fit.state, sink.piece), fit, remaining, output, bar, begin)
    if sink.is_zarr:
        add_obs(sink.result, output.obs, call.cells.path, call.cells.modality)
    sink.finish(metrics)
    return metrics


def _fit(call: _AtlasCall, read: Read, bar: Progress) -> IntegrationFit:
    """Fit on rows that `read` reads; all chunks are mapped by the same state, also after an interruption."""
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
        read=read,
        blocks=lambda: cells.batch.blocks(n),
        names=cells.batch.names,
        shape=cells.shape,
        labels=None if label is None or not label.names else lambda: label.blocks(n),
        covariates=None if cells.covariates is None else cells.covariates.read,
        covariate_fractions=dict(
            zip(call.strengths.of_covariates, call.strengths.fractions_of_covariates, strict=True)
        ),
    )
    step = split_rows(cells.shape, cells.step, n)[0]
    fit = fit_centroids(
        source,
        call.hyperparameters,
        call.options,
        call.centroids,
        fixed=call.find_fixed_batches(),
        step=step,
        progress=progress,
    )
    bar.update(task, completed=n_stages)
    # what cannot be separated is logged in any case
    description = describe_variables(fit.state, fit.metrics)
    if description and not bar.disable:
        bar.console.print(description)
    times.append(time.perf_counter())
    seconds = {"seconds_sample": times[1] - times[0], "seconds_fit": times[-1] - times[1]}
    return replace(fit, metrics=fit.metrics | seconds | {"n_cells": float(n)})


def _build_job(call: _AtlasCall, sink: MemorySink | FileSink, state: IntegrationState, piece: int) -> Job:
    positions = dict(zip(state.groups, state.map_of_group, strict=True))
    map_of_group = np.array([positions.get(name, -1) for name in call.cells.batch.names], dtype=np.int64)
    return Job(call.cells, sink, state, map_of_group, piece, call.device)


def _map_chunks(
    job: Job, fit: IntegrationFit, chunks: list[Chunk], output: _Output, bar: Progress, begin: float
) -> dict[str, float]:
    """Map chunks; returns the metrics of the fit, with times and memory.

    - `begin`: Time at which the call began.
    """
    start = time.perf_counter()
    task = bar.add_task("map", total=sum(stop - start for _, start, stop in chunks))

    def progress(rows: int) -> None:
        bar.update(task, advance=rows)

    if output.client is None:
        map_chunks(job, chunks, progress)
    else:
        map_on_cluster(job, chunks, output.client, progress)
    now = time.perf_counter()
    return dict(fit.metrics) | {
        "seconds_map": now - start,
        "peak_memory": _measure_peak_memory(),
        "seconds_total": now - begin,
    }


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

    adata = anndata.AnnData(obs=read_obs(cells.path, cells.modality))
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
