"""All cells through the fitted map, chunk by chunk, in this process or on the workers of a cluster."""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from muport._parallel import single_threaded
from muport.integration._fitted_state import transform_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from muport.integration._fitted_state import IntegrationState

    #: Position, first row and row after the last of a chunk.
    Chunk = tuple[int, int, int]

__all__ = ["Job", "device_for", "layout", "map_chunks", "map_on_cluster"]

_AHEAD = 1  # pieces that are read while another is mapped
_BEHIND = 1  # pieces that are written meanwhile
_PIECE = 2**25  # bytes of a piece
_STRETCH = 4  # how much larger a piece may be to hold whole chunks of the source
_RETRIES = 3


class CellSource(Protocol):
    """Cells that are read by rows."""

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, d) coordinates."""

    def codes(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) groups."""

    def window(self, start: int, stop: int) -> CellSource:
        """Return what another process needs to read these rows."""


class Sink(Protocol):
    """Where mapped rows go."""

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Write rows from row `start` on."""

    def commit(self, number: int, start: int, stop: int, checksum: int) -> None:
        """Record that a chunk is written."""


@dataclass(frozen=True, eq=False)
class Job:
    """What maps a chunk: idempotent, and the same in every process.

    Attributes
    ----------
    cells
        Source of the rows.
    sink
        Where they go.
    state
        The fitted state.
    map_of_group
        (G,) position of each group's map.
    piece
        Rows that are mapped together.
    device
        Wanted device: ``"cpu"`` or ``"cuda:0"``; without a GPU the CPU serves.
    """

    cells: CellSource
    sink: Sink
    state: IntegrationState
    map_of_group: NDArray[np.int64]
    piece: int
    device: str = "cpu"


def device_for(wanted: str) -> str:
    """Return the wanted torch device where it exists, otherwise the CPU: each worker looks for itself."""
    if wanted == "cpu":
        return wanted
    import torch

    index = int(wanted.partition(":")[2] or 0)
    return wanted if torch.cuda.is_available() and index < torch.cuda.device_count() else "cpu"


def layout(shape: tuple[int, int], step: int, chunk_size: int) -> tuple[int, list[Chunk]]:
    """Cut rows into chunks, which are finished as a whole, and these into pieces, which are in memory.

    A piece has 32 MB; it is a multiple of the rows that the source keeps together, where these are not too many. A
    chunk has at least `chunk_size` rows, a multiple of the piece's, so that no two chunks write to the same place.

    Parameters
    ----------
    shape
        (n, d).
    step
        Rows that the source keeps together.
    chunk_size
        Rows of a chunk.

    Returns
    -------
    Rows of a piece, and the chunks.

    Examples
    --------
    >>> layout((10, 2), step=2, chunk_size=4)
    (4, [(0, 0, 4), (1, 4, 8), (2, 8, 10)])
    """
    n, d = shape
    usual = max(1, _PIECE // (4 * d))
    stored = step * max(1, usual // step)
    piece = min(stored if stored <= _STRETCH * usual else usual, chunk_size)
    chunk = piece * -(-chunk_size // piece)
    return piece, [(number, low, min(low + chunk, n)) for number, low in enumerate(range(0, n, chunk))]


def map_chunks(job: Job, chunks: Sequence[Chunk], progress: Callable[[int], None] = lambda _: None) -> None:
    """Map chunks in this process: the next piece is read, and the last one written, while one is mapped.

    Parameters
    ----------
    job
        What to do.
    chunks
        Which chunks.
    progress
        Called with the number of rows that were written.
    """
    device = device_for(job.device)
    checksum: dict[int, int] = {}

    def load(piece: _Piece) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return job.cells.read(piece.low, piece.high), job.cells.codes(piece.low, piece.high)

    def store(piece: _Piece, rows: NDArray[np.float32]) -> None:
        number, start, stop = piece.chunk
        job.sink.write(piece.low, rows)
        checksum[number] = zlib.crc32(memoryview(rows).cast("B"), checksum.get(number, 0))
        if piece.high == stop:
            job.sink.commit(number, start, stop, checksum.pop(number))
        progress(len(rows))

    pieces = _pieces(chunks, job.piece)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, single_threaded():
        coming = deque((one, reader.submit(load, one)) for one in islice(pieces, _AHEAD))
        leaving: deque[Future[None]] = deque()
        while coming:
            piece, loaded = coming.popleft()
            x, codes = loaded.result()
            del loaded
            coming.extend((one, reader.submit(load, one)) for one in islice(pieces, _AHEAD))
            mapped = transform_cells(x, job.map_of_group[codes], job.state, device=None if device == "cpu" else device)
            del x
            while len(leaving) >= _BEHIND:
                leaving.popleft().result()
            leaving.append(writer.submit(store, piece, mapped))
            del mapped
        for written in leaving:
            written.result()


@dataclass(frozen=True)
class _Piece:
    chunk: Chunk
    low: int
    high: int


def _pieces(chunks: Sequence[Chunk], piece: int) -> Iterator[_Piece]:
    for chunk in chunks:
        for low in range(chunk[1], chunk[2], piece):
            yield _Piece(chunk, low, min(low + piece, chunk[2]))


def map_on_cluster(
    job: Job, chunks: Sequence[Chunk], client: Any, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Map chunks as tasks of a ``dask.distributed`` cluster, whose workers see the sink's file system.

    A task that is lost with its worker is given to another: it writes the same rows to the same place.

    Parameters
    ----------
    job
        What to do.
    chunks
        Which chunks.
    client
        Client of the cluster.
    progress
        Called with the number of rows of each finished chunk.
    """
    from distributed import as_completed

    state = client.scatter(job.state, broadcast=True, hash=False)
    rest = (job.sink, job.map_of_group, job.piece, job.device)
    tasks = {
        client.submit(_map_one, job.cells.window(*chunk[1:]), state, rest, chunk, pure=False, retries=_RETRIES): chunk
        for chunk in chunks
    }
    try:
        for task in as_completed(list(tasks)):
            task.result()
            progress(tasks[task][2] - tasks[task][1])
    finally:
        client.cancel([task for task in tasks if not task.done()])


def _map_one(
    cells: CellSource, state: IntegrationState, rest: tuple[Sink, NDArray[np.int64], int, str], chunk: Chunk
) -> None:
    sink, map_of_group, piece, device = rest
    map_chunks(Job(cells, sink, state, map_of_group, piece, device), [chunk])
