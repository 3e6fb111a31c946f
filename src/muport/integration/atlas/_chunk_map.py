"""Application of the fitted map to all cells in chunks, in this process or on the workers of a cluster."""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from muport._parallel import single_threaded
from muport.integration._fitted_state import transform_cells
from muport.integration.batch_variables._covariates import remove_covariates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState

    #: Position, first row and row after the last of a chunk.
    Chunk = tuple[int, int, int]

__all__ = ["Job", "find_device", "split_rows", "map_chunks", "map_on_cluster"]

_READ_AHEAD = 1  # pieces that are read while another is mapped
_WRITE_BEHIND = 1  # pieces that are written while another is mapped
_PIECE_BYTES = 2**25  # size of the coordinates of a piece
_LARGER_PIECE = 4  # largest factor of this size, for pieces that contain complete chunks of the source
_RETRIES = 3  # of a task of the cluster


class MappableCells(Protocol):
    """Cells that are read by rows."""

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, d) coordinates."""

    def codes(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) groups."""

    def read_covariates(self, start: int, stop: int) -> NDArray[np.float64] | None:
        """(stop - start, J) continuous covariates; None without."""

    def window(self, start: int, stop: int) -> MappableCells:
        """Return an object from which another process reads these rows."""


class Sink(Protocol):
    """Destination of mapped rows."""

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Write rows from row `start` on."""

    def commit(self, number: int, start: int, stop: int, checksum: int) -> None:
        """Record that a chunk is written."""


@dataclass(frozen=True, eq=False)
class Job:
    """The mapping of chunks. It is idempotent and the same in every process.

    - `cells`: Source of the rows.
    - `sink`: Destination of the mapped rows.
    - `state`: The fitted state.
    - `map_of_group`: (G,) position of the map of each group in the state.
    - `piece`: Number of rows that are mapped together.
    - `device`: Requested device: ``"cpu"`` or ``"cuda:0"``. Without a GPU the CPU is used.
    """

    cells: MappableCells
    sink: Sink
    state: IntegrationState
    map_of_group: NDArray[np.int64]
    piece: int
    device: str = "cpu"


def find_device(requested: str) -> str:
    """Return the requested torch device if it exists, otherwise the CPU; each worker checks this for itself."""
    if requested == "cpu":
        return requested
    import torch

    index = int(requested.partition(":")[2] or 0)
    return requested if torch.cuda.is_available() and index < torch.cuda.device_count() else "cpu"


def split_rows(shape: tuple[int, int], step: int, chunk_size: int) -> tuple[int, list[Chunk]]:
    """Split rows into chunks, which are completed as a unit, and chunks into pieces, which are in memory.

    A piece has about 32 MB. Its number of rows is a multiple of that of the chunks of the source, if these are not too
    large. A chunk has at least `chunk_size` rows, a multiple of those of a piece, so that no two chunks write to the
    same piece.

    - `shape`: (n, d).
    - `step`: Number of rows that the source stores together.

    Returns the number of rows of a piece, and the chunks.

    Examples
    --------
    >>> split_rows((10, 2), step=2, chunk_size=4)
    (4, [(0, 0, 4), (1, 4, 8), (2, 8, 10)])
    """
    n, d = shape
    preferred = max(1, _PIECE_BYTES // (4 * d))
    aligned = step * max(1, preferred // step)
    piece = min(aligned if aligned <= _LARGER_PIECE * preferred else preferred, chunk_size)
    chunk = piece * -(-chunk_size // piece)
    return piece, [(number, low, min(low + chunk, n)) for number, low in enumerate(range(0, n, chunk))]


def map_chunks(job: Job, chunks: Sequence[Chunk], progress: Callable[[int], None] = lambda _: None) -> None:
    """Map chunks in this process. While a piece is mapped, the next one is read and the last one is written.

    - `progress`: Called with the number of rows of each piece that was written.
    """
    device = find_device(job.device)
    checksum: dict[int, int] = {}

    def load(piece: _Piece) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64] | None]:
        rows = piece.low, piece.high
        return job.cells.read(*rows), job.cells.codes(*rows), job.cells.read_covariates(*rows)

    def store(piece: _Piece, rows: NDArray[np.float32]) -> None:
        number, start, stop = piece.chunk
        job.sink.write(piece.low, rows)
        checksum[number] = zlib.crc32(memoryview(rows).cast("B"), checksum.get(number, 0))
        if piece.high == stop:
            job.sink.commit(number, start, stop, checksum.pop(number))
        progress(len(rows))

    pieces = _split_chunks(chunks, job.piece)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, single_threaded():
        loading = deque((piece, reader.submit(load, piece)) for piece in islice(pieces, _READ_AHEAD))
        storing: deque[Future[None]] = deque()
        while loading:
            piece, loaded = loading.popleft()
            x, codes, covariates = loaded.result()
            del loaded
            if covariates is not None and job.state.covariates is not None:
                x = remove_covariates(x, covariates, job.state.covariates, None if device == "cpu" else device)
            loading.extend((following, reader.submit(load, following)) for following in islice(pieces, _READ_AHEAD))
            mapped = transform_cells(x, job.map_of_group[codes], job.state, device=None if device == "cpu" else device)
            del x
            while len(storing) >= _WRITE_BEHIND:
                storing.popleft().result()
            storing.append(writer.submit(store, piece, mapped))
            del mapped
        for written in storing:
            written.result()


@dataclass(frozen=True)
class _Piece:
    chunk: Chunk
    low: int
    high: int


def _split_chunks(chunks: Sequence[Chunk], piece: int) -> Iterator[_Piece]:
    for chunk in chunks:
        for low in range(chunk[1], chunk[2], piece):
            yield _Piece(chunk, low, min(low + piece, chunk[2]))


def map_on_cluster(
    job: Job, chunks: Sequence[Chunk], client: Any, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Map chunks as tasks of a ``dask.distributed`` cluster whose workers share the file system of the sink.

    If a worker is lost, another one repeats its tasks: they write the same rows to the same place.

    - `progress`: Called with the number of rows of each finished chunk.
    """
    from distributed import as_completed

    state = client.scatter(job.state, broadcast=True, hash=False)
    settings = (job.sink, job.map_of_group, job.piece, job.device)
    tasks = {
        client.submit(
            _map_chunk, job.cells.window(*chunk[1:]), state, settings, chunk, pure=False, retries=_RETRIES
        ): chunk
        for chunk in chunks
    }
    try:
        for task in as_completed(list(tasks)):
            task.result()
            progress(tasks[task][2] - tasks[task][1])
    finally:
        client.cancel([task for task in tasks if not task.done()])


def _map_chunk(
    cells: MappableCells, state: IntegrationState, settings: tuple[Sink, NDArray[np.int64], int, str], chunk: Chunk
) -> None:
    sink, map_of_group, piece, device = settings
    map_chunks(Job(cells, sink, state, map_of_group, piece, device), [chunk])
