"""ModalityWeights of modalities."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._modality_weights import (
    ModalityWeights,
    fit_weights,
    interpolate_weights,
    normalize_scores,
    score_modalities,
    score_neighborhoods,
)


def _clusters(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    return label, rng.normal(size=(4, 6))[label] * 2


def _noisy(x: np.ndarray, sd: float, seed: int) -> np.ndarray:
    return (x + sd * np.random.default_rng(seed).normal(size=x.shape)).astype(np.float32)


def _slow(x: np.ndarray, y: np.ndarray, batch: np.ndarray, k: int = 10) -> np.ndarray:
    """The definition, cell by cell."""
    x, y = x.astype(float).copy(), y.astype(float).copy()
    for code in np.unique(batch):
        rows = batch == code
        x[rows] -= x[rows].mean(axis=0)
        y[rows] -= y[rows].mean(axis=0)
    scores = np.zeros(len(x))
    for i in range(len(x)):
        others = np.flatnonzero((batch == batch[i]) & (np.arange(len(x)) != i))
        near = others[np.argsort(np.square(x[others] - x[i]).sum(axis=1))[: min(k, len(others))]]
        scores[i] = y[i] @ y[near].mean(axis=0)
    return scores / np.square(y).sum(axis=1).mean()


def test_scores_are_by_neighbors_within_the_batch():
    _, signal = _clusters(120)
    x, y = _noisy(signal, 0.5, 1), _noisy(signal[:, :3], 0.5, 2)
    batch = np.random.default_rng(3).integers(0, 3, 120)
    rows, score = score_neighborhoods(x, y, batch, 0)
    np.testing.assert_array_equal(rows, np.arange(120))
    np.testing.assert_allclose(score, _slow(x, y, batch), atol=1e-5)


def test_a_modality_is_scored_on_itself_by_its_other_coordinates():
    _, signal = _clusters(100)
    x, batch = _noisy(signal, 0.5, 1), np.zeros(100, np.int64)
    expected = np.zeros(100)
    total = np.square(x - x.mean(axis=0)).sum(axis=1).mean()
    for f in range(5):
        held = np.arange(6) % 5 == f
        unit = np.square(x[:, held] - x[:, held].mean(axis=0)).sum(axis=1).mean()
        expected += _slow(x[:, ~held], x[:, held], batch) * unit / total
    np.testing.assert_allclose(score_neighborhoods(x, None, batch, 0)[1], expected, atol=1e-5)


@pytest.mark.parametrize("width", [2, 30])
def test_noise_does_not_predict_itself(width):
    x = np.random.default_rng(0).normal(size=(3000, width)).astype(np.float32)
    assert abs(score_neighborhoods(x, None, np.zeros(3000, np.int64), 0)[1].mean()) < 0.02
    single = np.random.default_rng(1).normal(size=(3000, 1)).astype(np.float32)
    assert len(score_neighborhoods(single, None, np.zeros(3000, np.int64), 0)[0]) == 0


def test_a_batch_effect_predicts_nothing():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 3, 2000)
    shift = rng.normal(size=(3, 8))[batch] * 5
    x, y = (rng.normal(size=(2000, 8)) + shift).astype(np.float32), (rng.normal(size=(2000, 8)) + shift)
    assert abs(score_neighborhoods(x, y.astype(np.float32), batch, 0)[1].mean()) < 0.02


def test_weights_fall_with_noise_and_are_equal_without_signal():
    label, signal = _clusters(900)
    cell, batch = {"a": np.arange(900), "b": np.arange(900)}, np.zeros(900, np.int64)
    before = 0.6
    for sd in (0.3, 2.0, 5.0, 50.0):
        views = {"a": _noisy(signal, 0.3, 1), "b": _noisy(signal, sd, 2)}
        weight = normalize_scores(score_modalities(views, cell, batch, 0)[1])
        assert weight.sum() == pytest.approx(1)
        assert weight[1] < before
        before = float(weight[1])
    assert before < 0.01
    np.testing.assert_allclose(normalize_scores(np.array([0.0, -0.1])), 0.5)


def test_scores_are_unknown_where_no_cell_was_scored():
    _, signal = _clusters(60)
    views = {"a": _noisy(signal[:40], 0.3, 1), "b": _noisy(signal[20:], 0.3, 2)}
    scores, mean_scores = score_modalities(
        views, {"a": np.arange(40), "b": np.arange(20, 60)}, np.zeros(60, np.int64), 0
    )
    np.testing.assert_array_equal(np.isnan(scores), np.stack([np.arange(60) >= 40, np.arange(60) < 20], axis=1))
    assert (mean_scores > 0.5).all()


def test_weights_are_local_and_smooth():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(-3, 1, size=(2000, 2)), rng.normal(3, 1, size=(2000, 2))]).astype(np.float32)
    scores = np.where(z[:, [0]] < 0, [0.8, 0.2], [0.2, 0.8]) + 0.1 * rng.normal(size=(4000, 2))
    weights = fit_weights(z, scores, scores.mean(axis=0), 0)
    assert isinstance(weights, ModalityWeights)
    weight = interpolate_weights(np.array([[-3, -3], [0, 0], [3, 3]], np.float32), weights)
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-6)
    assert weight[0, 0] > 0.65
    assert weight[2, 0] < 0.35
    path = np.linspace([-3, -3], [3, 3], 400).astype(np.float32)
    assert np.abs(np.diff(interpolate_weights(path, weights)[:, 0])).max() < 0.15
