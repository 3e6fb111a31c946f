"""FOSCTTM against the definition written out, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.metrics import _foscttm as _matching
from muport.metrics import foscttm


def by_definition(a, b):
    """Both ways, one cell at a time, in float64; points as float32, which is how they are read."""
    a, b = (np.asarray(x, dtype=np.float32).astype(float) for x in (a, b))
    n, total = len(a), 0
    for i in range(n):
        for x, y in ((a, b), (b, a)):
            distance = ((x[i] - y) ** 2).sum(1)
            total += (np.delete(distance, i) < distance[i]).mean()
    return total / (2 * n)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 60), st.integers(1, 12), st.floats(0, 3), st.integers(0, 2**20))
def test_equals_the_definition(n, d, noise, seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d))
    b = a + noise * rng.normal(size=(n, d))
    assert foscttm(a, b) == pytest.approx(by_definition(a, b), abs=1e-9)


@pytest.mark.parametrize("block", [1, 70, 2**24])
def test_blocks_change_nothing(monkeypatch, block):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 64, 5))
    monkeypatch.setattr(_matching, "_BLOCK", block)
    assert foscttm(a, b) == pytest.approx(by_definition(a, b), abs=1e-9)


def test_ends_of_the_scale():
    a = np.arange(6.0)[:, None]
    assert foscttm(a, a) == 0
    # on two points every cell's match is the farther one
    assert foscttm([[0.0], [1.0]], [[1.0], [0.0]]) == 1
    rng = np.random.default_rng(0)
    assert foscttm(*rng.normal(size=(2, 800, 3))) == pytest.approx(0.5, abs=0.03)


def test_far_from_the_origin_and_among_duplicates():
    rng = np.random.default_rng(0)
    a = np.repeat(rng.normal(size=(20, 4)), 5, axis=0)
    assert foscttm(a, a) == 0
    b = a + 0.3 * rng.normal(size=a.shape)
    assert foscttm(a + 1000, b + 1000) == pytest.approx(by_definition(a + 1000, b + 1000), abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), r"\(3, 2\) and b \(2, 2\)"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "two rows or more"),
        (np.zeros((2, 2)), np.full((2, 2), np.nan), "b has a NaN"),
    ],
)
def test_bad_input(a, b, message):
    with pytest.raises(ValueError, match=message):
        foscttm(a, b)
