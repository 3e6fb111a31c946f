"""The test of pairs: its error rate for permuted names, its power, and the names that it compares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from muport.data.registration._pairing import (
    _compare_own,
    _compare_shared,
    _compute_features,
    _sample_blocks,
    _sample_names,
)


def draw(seed: int, n: int, d: int = 6, share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two measurements of n cells that have a share of their variance in common."""
    rng = np.random.default_rng(seed)
    common = np.sqrt(share) * rng.normal(size=(n, d))
    x, y = (common + np.sqrt(1 - share) * rng.normal(size=(n, d)) for _ in range(2))
    return x.astype(np.float32), y.astype(np.float32)


def compare_own(x: np.ndarray, y: np.ndarray, block: np.ndarray):
    batch = np.zeros(len(x), np.int64)
    return _compare_own(_compute_features(x, batch, block), _compute_features(y, batch, block), block)


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
@pytest.mark.parametrize("compare", [compare_own, _compare_shared])
def test_p_values_of_permuted_names_are_uniform(compare, record_property):
    block = np.arange(60) // 4
    p = np.array([compare(*draw(seed, 60), block).p_value for seed in range(60)])
    record_property("tries", len(p))
    assert (p <= 0.005).sum() <= 2
    assert 0.37 < p.mean() < 0.63
    assert (p > 0.8).sum() > 4


@pytest.mark.parametrize("compare", [compare_own, _compare_shared])
def test_pairs_agree(compare):
    block = np.arange(120) // 4
    for seed in range(5):
        found = compare(*draw(seed, 120, share=0.6), block)
        assert found.p_value <= 0.005
        assert found.agreement > 0.1
    x, _ = draw(0, 120)
    assert compare(x, x, block).agreement == pytest.approx(1, abs=1e-4)


def test_a_relation_that_is_not_linear_is_found():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 400)
    x, y = (np.c_[np.cos(k * angle), np.sin(k * angle)] + 0.1 * rng.normal(size=(400, 2)) for k in (1, 2))
    assert compare_own(x.astype(np.float32), y.astype(np.float32), np.arange(400) // 4).p_value <= 0.005


def test_constant_coordinates_prove_nothing():
    x, _ = draw(0, 40)
    for compare in (compare_own, _compare_shared):
        found = compare(x, np.ones_like(x), np.arange(40) // 4)
        assert found.p_value == 1
        assert found.agreement == 0


def test_blocks_hold_names_that_follow_each_other_within_a_batch():
    numbers = np.random.default_rng(0).permutation(50)
    names = pd.Index([f"c{i}" for i in numbers])
    order, block = _sample_blocks(names, (numbers >= 21).astype(np.int64))
    assert numbers[order].tolist() == list(range(50))
    assert np.bincount(block).tolist() == [4] * 5 + [1] + [4] * 7 + [1]


def test_large_data_are_sampled_whatever_the_order():
    names = pd.Index([f"c{i}" for i in range(30_000)])
    turned = names[np.random.default_rng(0).permutation(len(names))]
    samples = []
    for index in (names, turned):
        order, block = _sample_blocks(index, np.zeros(len(index), np.int64))
        assert len(order) == len(block) == 600
        samples.append(index[order].tolist())
    assert samples[0] == samples[1]
    assert set(names[_sample_names(names, 10)]) == set(turned[_sample_names(turned, 10)])
