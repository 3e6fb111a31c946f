"""How well held-out pairs find their partner, and the fraction of the distances that shared coordinates get."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._held_out_pairs import estimate_shared_fraction, fraction_closer
from muport.metrics import foscttm

N = 80
X = {m: np.random.default_rng(i).normal(size=(N, 3)).astype(np.float32) for i, m in enumerate(("rna", "atac"))}
CELL = {"rna": np.arange(N), "atac": np.r_[20:N, N : N + 20]}
NOISE = {"exact": 0.0, "near": 0.5, "far": 3.0}


def test_fraction_closer_is_foscttm_of_centered_cells():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 4)).astype(np.float32)
    w = z + rng.normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(fraction_closer(z, w + 7), foscttm(z - z.mean(0), w - w.mean(0)), atol=1e-6)
    assert fraction_closer(z, z) == 0


def _embedding(fitted: str, shared: str, calls: list | None = None):
    """Embed held-out pairs so that partners are as far apart as each of the two names says."""

    def embed_held_out(separated, first, second):
        if calls is not None:
            calls.append((separated, first, second))
        rng = np.random.default_rng(len(first[1]))
        z = rng.normal(size=(len(first[1]), 3)).astype(np.float32)
        return tuple(
            (z, z + np.float32(NOISE[noise]) * rng.normal(size=z.shape).astype("f4")) for noise in (fitted, shared)
        )

    return embed_held_out


@pytest.mark.parametrize(("fitted", "shared", "low", "high"), [
    ("near", "near", 0.35, 0.65), ("exact", "far", 0.0, 0.15), ("far", "exact", 0.85, 1.0), ("near", "far", 0.1, 0.45),
])  # fmt: skip
def test_the_space_in_which_partners_are_closer_counts_more(fitted, shared, low, high):
    assert low <= estimate_shared_fraction(X, CELL, N + 20, _embedding(fitted, shared)) <= high


def test_every_pair_is_held_out_once_and_fitted_on_once():
    calls: list = []
    estimate_shared_fraction(X, CELL, N + 20, _embedding("near", "near", calls))
    held_out = [set(CELL[modality][rows]) for _, (modality, rows), _ in calls]
    assert set.union(*held_out) == set(range(20, N))
    assert not set.intersection(*held_out)
    for (separated, (first, rows), (second, second_rows)), cells in zip(calls, held_out, strict=True):
        np.testing.assert_array_equal(CELL[first][rows], CELL[second][second_rows])
        assert not cells & set(separated[second])
        assert set(range(20, N)) - cells == set(separated["rna"]) & set(separated["atac"])


def test_without_pairs_only_the_shared_coordinates_count():
    cell = {"rna": np.arange(N), "atac": N + np.arange(N)}
    assert estimate_shared_fraction(X, cell, 2 * N, _embedding("exact", "far")) == 1


def test_the_fraction_follows_the_errors_and_is_0_at_chance():
    embed, results = _embedding("near", "far"), []
    fraction = estimate_shared_fraction(X, CELL, N + 20, lambda *args: results.append(embed(*args)) or embed(*args))
    fitted, shared = (np.mean([fraction_closer(*spaces[i]) for spaces in results]) for i in (0, 1))
    np.testing.assert_allclose(fraction / (1 - fraction), np.sqrt((1 / shared - 2) / (1 / fitted - 2)))
    z = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    assert estimate_shared_fraction(X, CELL, N + 20, lambda *_: ((z, z), (z, -z))) == 0
    assert estimate_shared_fraction(X, CELL, N + 20, lambda *_: ((z, -z), (z, z))) == 1
    assert estimate_shared_fraction(X, CELL, N + 20, lambda *_: ((z, -z), (z, -z))) == 0
