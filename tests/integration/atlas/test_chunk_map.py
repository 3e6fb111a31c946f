"""Chunks: cut so that none overlap, mapped as by the state, recorded once they are written."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muport.integration._fitted_state import transform_cells
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.atlas import _chunk_map as atlas
from muport.integration.atlas._centroid_fit import fit_centroids
from muport.integration.atlas._chunk_map import Job, find_device, map_chunks, split_rows
from muport.integration.atlas._sampling import CellSource


class Memory:
    """Cells and sink at once; writes down who called."""

    def __init__(self, x, codes, fail_at=None):
        self.x, self.group, self.out = x, codes, np.full_like(x, np.nan)
        self.commits, self.fail_at = [], fail_at

    def read(self, start, stop):
        if self.fail_at is not None and start <= self.fail_at < stop:
            raise OSError(f"row {self.fail_at}")
        return self.x[start:stop]

    def codes(self, start, stop):
        return self.group[start:stop]

    def read_covariates(self, start, stop):
        return None

    def write(self, start, rows):
        assert np.isnan(self.out[start : start + len(rows)]).all()
        self.out[start : start + len(rows)] = rows

    def commit(self, number, start, stop, checksum):
        assert zlib.crc32(self.out[start:stop].tobytes()) == checksum
        self.commits.append((number, start, stop))


@given(st.integers(1, 5_000), st.integers(1, 20), st.integers(1, 700), st.integers(1, 900), st.integers(1, 4_000))
def test_chunks_are_disjoint_and_aligned(n, d, step, chunk_size, limit):
    before, atlas._PIECE_BYTES = atlas._PIECE_BYTES, limit
    try:
        piece, chunks = split_rows((n, d), step, chunk_size)
    finally:
        atlas._PIECE_BYTES = before
    assert [number for number, _, _ in chunks] == list(range(len(chunks)))
    assert chunks[0][1] == 0
    assert chunks[-1][2] == n
    assert all(a[2] == b[1] for a, b in zip(chunks, chunks[1:], strict=False))
    assert all(start % piece == 0 for _, start, _ in chunks)
    assert all(stop - start >= min(chunk_size, n - start) for _, start, stop in chunks)
    assert piece <= chunk_size
    assert piece * 4 * d <= max(4 * limit, 16 * d)


@pytest.fixture(scope="module")
def fitted(kit):
    sim = kit.draw(n=500, n_batches=3)
    blocks = [(0, sim.batch)]
    names = ("b0", "b1", "b2")
    source = CellSource(lambda a, b: sim.x[a:b], lambda: blocks, names, sim.x.shape)
    state = fit_centroids(source, Hyperparameters(), FitOptions()).state
    return sim, state, np.array([state.groups.index(name) for name in names])


@pytest.mark.parametrize(("piece", "chunk"), [(500, 500), (64, 128), (7, 21)])
def test_all_cells_are_mapped_as_by_the_state(fitted, piece, chunk):
    sim, state, member = fitted
    memory = Memory(sim.x, sim.batch)
    chunks = [(i, low, min(low + chunk, 500)) for i, low in enumerate(range(0, 500, chunk))]
    rows = []
    map_chunks(Job(memory, memory, state, member, piece), chunks, rows.append)
    assert memory.commits == chunks
    assert sum(rows) == 500
    assert np.allclose(memory.out, transform_cells(sim.x, member[sim.batch], state), atol=1e-5)


def test_only_the_chunks_asked_for_are_mapped(fitted):
    sim, state, member = fitted
    memory = Memory(sim.x, sim.batch)
    map_chunks(Job(memory, memory, state, member, 50), [(2, 200, 300)])
    assert np.array_equal(np.flatnonzero(~np.isnan(memory.out[:, 0])), np.arange(200, 300))


def test_an_error_of_the_reader_arrives(fitted):
    sim, state, member = fitted
    memory = Memory(sim.x, sim.batch, fail_at=320)
    with pytest.raises(OSError, match="row 320"):
        map_chunks(Job(memory, memory, state, member, 50), [(0, 0, 200), (1, 200, 400), (2, 400, 500)])
    assert memory.commits == [(0, 0, 200)]


def test_a_device_that_is_not_there_is_the_cpu():
    assert find_device("cpu") == "cpu"
    assert find_device("cuda:99") == "cpu"
