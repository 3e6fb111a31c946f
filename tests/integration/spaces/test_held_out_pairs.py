"""How well hidden pairs meet, and what part the shared coordinates get for it."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._held_out_pairs import missed, shared_part
from muport.metrics import foscttm

N = 80
X = {m: np.random.default_rng(i).normal(size=(N, 3)).astype(np.float32) for i, m in enumerate(("rna", "atac"))}
CELL = {"rna": np.arange(N), "atac": np.r_[20:N, N : N + 20]}
NOISE = {"exact": 0.0, "near": 0.5, "far": 3.0}


def test_missed_is_foscttm_of_centred_cells():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 4)).astype(np.float32)
    w = z + rng.normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(missed(z, w + 7), foscttm(z - z.mean(0), w - w.mean(0)), atol=1e-6)
    assert missed(z, z) == 0


def _placing(learnt: str, shared: str, seen: list | None = None):
    """Spaces in which partners are as far apart as told."""

    def place(apart, first, second):
        if seen is not None:
            seen.append((apart, first, second))
        rng = np.random.default_rng(len(first[1]))
        z = rng.normal(size=(len(first[1]), 3)).astype(np.float32)
        return tuple(
            (z, z + np.float32(NOISE[one]) * rng.normal(size=z.shape).astype("f4")) for one in (learnt, shared)
        )

    return place


@pytest.mark.parametrize(("learnt", "shared", "low", "high"), [
    ("near", "near", 0.35, 0.65), ("exact", "far", 0.0, 0.15), ("far", "exact", 0.85, 1.0), ("near", "far", 0.1, 0.45),
])  # fmt: skip
def test_the_space_in_which_pairs_meet_counts_more(learnt, shared, low, high):
    assert low <= shared_part(X, CELL, N + 20, _placing(learnt, shared)) <= high


def test_every_pair_is_hidden_once_and_learnt_from_once():
    seen: list = []
    shared_part(X, CELL, N + 20, _placing("near", "near", seen))
    hidden = [set(CELL["rna"][first[1]]) for _, first, _ in seen]
    assert set.union(*hidden) == set(range(20, N))
    assert not set.intersection(*hidden)
    for (apart, (one, rows), (other, others)), cells in zip(seen, hidden, strict=True):
        np.testing.assert_array_equal(CELL[one][rows], CELL[other][others])
        assert not cells & set(apart[other])
        assert set(range(20, N)) - cells == set(apart["rna"]) & set(apart["atac"])


def test_without_pairs_the_shared_coordinates_are_all_there_is():
    cell = {"rna": np.arange(N), "atac": N + np.arange(N)}
    assert shared_part(X, cell, 2 * N, _placing("exact", "far")) == 1


def test_the_part_is_by_the_error_and_none_at_chance():
    placing, seen = _placing("near", "far"), []
    found = shared_part(X, CELL, N + 20, lambda *given: seen.append(placing(*given)) or placing(*given))
    learnt, shared = (np.mean([missed(*spaces[i]) for spaces in seen]) for i in (0, 1))
    np.testing.assert_allclose(found / (1 - found), np.sqrt((1 / shared - 2) / (1 / learnt - 2)))
    z = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    assert shared_part(X, CELL, N + 20, lambda *_: ((z, z), (z, -z))) == 0
    assert shared_part(X, CELL, N + 20, lambda *_: ((z, -z), (z, z))) == 1
    assert shared_part(X, CELL, N + 20, lambda *_: ((z, -z), (z, -z))) == 0
