"""Classification from distances, against scikit-learn's ridge and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from muport.gmm.metric._kernel_ridge import (
    PENALTIES,
    balanced_loss,
    calibrate,
    classify,
    inner_folds,
    ridge_scores,
    score_held_out,
    to_probabilities,
)


def points(seed: int, sizes: tuple[int, ...] = (12, 7), d: int = 3, gap: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    condition = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), d)) * gap
    return rng.normal(size=(len(condition), d)) + centers[condition], condition


def alike(views: np.ndarray, folds: list[np.ndarray]) -> np.ndarray:
    """The same distances (F, V, P, P) whoever is held out."""
    return np.broadcast_to(views, (len(folds), *views.shape))


def test_scores_are_those_of_a_weighted_ridge():
    """Squared Euclidean distances give the kernel of the points, centered at the mean of the class means."""
    x, condition = points(0, (9, 6, 4))
    new = np.random.default_rng(1).normal(size=(5, 3))
    found = ridge_scores(cdist(x, x) ** 2, cdist(new, x) ** 2, condition)
    weight = 1 / np.bincount(condition)[condition]
    weight /= weight.sum()
    center = weight @ x
    size = weight @ np.square(x - center).sum(1)
    for penalty, one in zip(PENALTIES, found, strict=True):
        model = Ridge(alpha=penalty * size, fit_intercept=False)
        model.fit(x - center, np.eye(3)[condition] - 1 / 3, sample_weight=weight)
        np.testing.assert_allclose(one, model.predict(new - center), atol=1e-8)


def test_a_condition_of_many_patients_has_no_advantage():
    """Where the distances say nothing, so does the prediction."""
    condition = np.repeat([0, 1], [15, 3])
    flat = 1.0 - np.eye(18)
    p = classify(flat, condition, np.ones((2, 18)))
    np.testing.assert_allclose(p, 0.5, atol=0.01)


def test_ties_are_equal():
    x, condition = points(2)
    at = np.vstack([x[:1], x[:1]]) + 0.3
    p = classify(cdist(x, x), condition, cdist(at, x))
    np.testing.assert_array_equal(p[0], p[1])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0, 5))
def test_probabilities_sum_to_one(seed, classes, gap):
    x, condition = points(seed, tuple(range(3, 3 + classes)), gap=gap)
    p = classify(cdist(x, x, "cityblock"), condition, cdist(x + 1, x, "cityblock"))
    assert p.shape == (len(x), classes)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1)


def test_separated_conditions_are_predicted_and_scale_does_not_matter():
    x, condition = points(3, (8, 8, 8), gap=8.0)
    new, truth = points(3, (8, 8, 8), gap=8.0)[0] + 0.1, condition
    p = classify(cdist(x, x), condition, cdist(new, x))
    np.testing.assert_array_equal(p.argmax(1), truth)
    np.testing.assert_allclose(classify(cdist(x, x) * 1e4, condition, cdist(new, x) * 1e4), p, atol=1e-5)


def test_noise_gives_timid_probabilities():
    rng = np.random.default_rng(4)
    x, condition = rng.normal(size=(40, 5)), np.arange(40) % 2
    p = classify(cdist(x, x), condition, cdist(rng.normal(size=(200, 5)), x))
    assert np.abs(p - 0.5).mean() < 0.2


def test_folds_hold_out_groups_and_keep_every_condition():
    condition = np.array([0, 0, 0, 1, 1, 1, 2])
    group = np.array([0, 0, 1, 2, 3, 3, 4])
    folds = inner_folds(condition, group)
    assert sorted(map(tuple, folds)) == [(0, 1), (2,), (3,), (4, 5)]  # the only patient of condition 2 always stays
    many = inner_folds(np.arange(100) % 2, np.arange(100), 5)
    assert sorted(np.concatenate(many)) == list(range(100))
    assert all((np.arange(100)[rows] % 2).sum() == 10 for rows in many)


def test_held_out_patients_have_no_part_in_their_scores():
    x, condition = points(5)
    folds = inner_folds(condition, np.arange(len(x)))
    squared = cdist(x, x) ** 2
    scores = score_held_out(lambda left: alike(squared[None], left), condition, folds)[0]
    other = 1 - condition
    for i in (0, 15):
        changed = condition.copy()
        changed[i] = other[i]
        again = score_held_out(lambda left: alike(squared[None], left), changed, [np.array([i])])[0]
        np.testing.assert_allclose(again[:, i], scores[:, i])


def test_folds_of_all_sizes_are_solved_as_one_by_one(monkeypatch):
    """Each fold has its own distances and training patients, however many are solved together."""
    x, condition = points(8, (9, 7))
    squared = cdist(x, x) ** 2
    folds = [np.array([0, 3]), np.array([1]), np.array([5, 12]), np.array([2]), np.array([8, 9, 15])]
    factor = {int(rows[0]): 1.0 + rows[0] for rows in folds}

    def views(left):
        return np.stack([np.stack([squared, squared ** (0.5 / factor[int(rows[0])])]) for rows in left])

    together = score_held_out(views, condition, folds)
    assert np.isnan(together[:, :, [4, 6, 7]]).all()
    for rows in folds:
        rest = np.setdiff1d(np.arange(16), rows)
        for one, view in zip(together, views([rows])[0], strict=True):
            alone = ridge_scores(view[np.ix_(rest, rest)], view[np.ix_(rows, rest)], condition[rest])
            np.testing.assert_allclose(one[:, rows], alone, atol=1e-10)
    monkeypatch.setattr("muport.gmm.metric._kernel_ridge._MAX_ENTRIES", 1)
    np.testing.assert_allclose(score_held_out(views, condition, folds), together, atol=1e-12)


def test_calibration_is_a_minimum():
    x, condition = points(6, gap=0.7)
    squared = cdist(x, x) ** 2
    views = np.stack([squared, squared**0.5])
    folds = inner_folds(condition, np.arange(len(x)))
    both = score_held_out(lambda left: alike(views, left), condition, folds)
    scores, (found, other) = both[0], calibrate(both, condition)
    alone = score_held_out(lambda left: alike(views[1:], left), condition, folds)
    np.testing.assert_allclose(both[1:], alone, atol=1e-10)
    assert other.loss == pytest.approx(calibrate(alone, condition)[0].loss)
    grid = [balanced_loss(to_probabilities(one, s), condition) for one in scores for s in np.geomspace(0.05, 20, 60)]
    assert found.loss <= min(grid) + 1e-4
    assert found.loss == pytest.approx(balanced_loss(to_probabilities(scores[found.penalty], found.slope), condition))


def test_without_folds_the_loss_is_chance():
    nowhere = score_held_out(lambda left: alike(np.zeros((2, 4, 4)), left), np.array([0, 0, 1, 1]), [])
    assert nowhere.shape == (2, 3, 4, 2)
    found = calibrate(nowhere, np.array([0, 0, 1, 1]))[1]
    assert found.loss == pytest.approx(np.log(2))


def test_bad_input():
    x, condition = points(7)
    distance = cdist(x, x)
    with pytest.raises(ValueError, match="one value only"):
        classify(distance, condition * 0, distance)
    with pytest.raises(ValueError, match="do not fit"):
        classify(distance, condition[:-1], distance)
