"""Weights of views: the simplest view keeps the weight unless the others are clearly better."""

from __future__ import annotations

import numpy as np
import pytest

from muport.gmm.prediction._view_weights import weigh_views


def predictions(p_true: list[float], n: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(V, n, 2) probabilities, of which the true condition gets `p_true` on average, and the conditions."""
    rng = np.random.default_rng(seed)
    condition = np.arange(n) % 2
    logit = np.log(p_true) - np.log1p(-np.array(p_true))
    own = 1 / (1 + np.exp(-(logit[:, None] + noise * rng.normal(size=(len(p_true), n)))))
    p = np.stack([1 - own, own], axis=2)
    return np.where(condition[:, None] == 1, p, p[:, :, ::-1]), condition


def weights(p_true: list[float], n: int, simplest: int | None = 1, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    p, condition = predictions(p_true, n, noise, seed)
    w = weigh_views(p, ["state", "types"], simplest, condition, np.arange(n))
    assert w.sum() == pytest.approx(1)
    return w


def test_a_view_that_is_much_better_gets_the_weight():
    assert weights([0.95, 0.5], 20)[0] > 0.95


def test_an_equal_or_worse_view_leaves_the_simplest_ahead():
    assert weights([0.6, 0.6], 20)[1] > 0.7
    assert weights([0.5, 0.8], 20)[1] > 0.99


def test_chance_differences_are_shrunk_away():
    """Neither view knows anything: the simplest keeps more than without shrinkage."""
    shrunk, free = (np.mean([weights([0.5, 0.5], 12, s, 2.0, seed)[1] for seed in range(40)]) for s in (1, None))
    assert shrunk > free + 0.1
    assert shrunk > 0.6


def test_patients_that_were_never_held_out_leave_even_weights():
    p, condition = predictions([0.9, 0.5], 6)
    w = weigh_views(np.full_like(p, np.nan), ["state", "types"], 1, condition, np.arange(6))
    np.testing.assert_allclose(w, [0.25, 0.75])


def test_samples_of_one_person_count_once():
    """Twice the samples of the same people are no more evidence."""
    p, condition = predictions([0.7, 0.5], 10)
    once = weigh_views(p, ["state", "types"], 1, condition, np.arange(10))
    twice = weigh_views(
        np.repeat(p, 2, axis=1), ["state", "types"], 1, np.repeat(condition, 2), np.repeat(np.arange(10), 2)
    )
    np.testing.assert_allclose(once, twice)
