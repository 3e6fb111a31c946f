"""Which family of views carries the prediction, where the cause of the difference is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muport.gmm.metric._log_ratios import CellCounts
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.mixtures._mixtures import Mixtures
from muport.gmm.prediction import _patient_classifier
from muport.gmm.prediction._patient_classifier import FAMILIES, fit_classifier, predict_conditions, view_distances

K, D = 2, 3
QUICK = MetricSettings(ridge=1.0, mix=(1.0, 0.0), n_comps=2)


def cohort(seed: int, *, p: int = 24, shift: float = 0.0, share: float = 0.0, width: float = 0.0) -> tuple:
    """The condition moves state 0, changes its share, or widens it along the second axis."""
    rng = np.random.default_rng(seed)
    condition = rng.permutation(np.arange(p) % 2)
    means = 6.0 * np.eye(K, D) + 0.3 * rng.normal(size=(p, K, D))
    means[:, 0, 1] += shift * condition
    logit = 0.3 * rng.normal(size=(p, K))
    logit[:, 0] += share * condition
    weights = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    factor = np.eye(D) + 0.1 * rng.normal(size=(p, K, D, D))
    factor[:, 0, 1, 1] *= 1 + width * condition
    return Mixtures(weights, means, factor @ factor.swapaxes(2, 3), "full", 0.0), condition


@pytest.mark.parametrize(
    ("effect", "families"),
    [({"shift": 2.5}, ("state", "spread")), ({"width": 0.7}, ("spread",)), ({"share": 1.5}, FAMILIES)],
)
def test_families_that_see_the_cause_predict_conditions(effect: dict[str, float], families: tuple[str, ...]) -> None:
    """A moved mean is seen with or without the spread, shares by all: mass must move where they differ."""
    mix, condition = cohort(0, p=48, **effect)
    train, new = np.arange(24), np.arange(24, 48)
    classifier = fit_classifier(mix.subset(train), condition[train], QUICK)
    weights = classifier.family_weights()
    assert tuple(weights) == FAMILIES
    assert sum(weights[family] for family in families) > 0.6
    right = predict_conditions(classifier, mix.subset(new)).argmax(axis=1) == condition[new]
    assert right.mean() > 0.8


def test_a_change_of_covariance_needs_the_spread() -> None:
    mix, condition = cohort(1, p=48, width=0.7)
    train, new = np.arange(24), np.arange(24, 48)
    right = []
    for bures in (False, True):
        classifier = fit_classifier(mix.subset(train), condition[train], replace(QUICK, bures=bures))
        right.append((predict_conditions(classifier, mix.subset(new)).argmax(axis=1) == condition[new]).mean())
    assert right[0] < 0.7
    assert right[1] > 0.9


def test_views_of_no_weight_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a view that is left out would have added is negligible, and plans are the same for all that share them."""
    mix, condition = cohort(2, shift=1.5)
    classifier = fit_classifier(mix, condition, QUICK)
    one = [view for view in classifier.views if view.family == "spread" and not view.metric.offset]
    assert len(one) == 1
    p = predict_conditions(classifier, mix)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(predict_conditions(classifier, mix.subset(np.arange(3))), p[:3], atol=1e-9)
    counts = counts_of(condition, 2.0)
    classifier = fit_classifier(mix, condition, QUICK, counts=counts)
    p = predict_conditions(classifier, mix, counts=counts)
    used = len(view_distances(classifier, mix, {}, counts))
    monkeypatch.setattr(_patient_classifier, "_MIN_WEIGHT", 0.0)
    assert used < len(view_distances(classifier, mix, {}, counts)) == len(classifier.all_views)
    np.testing.assert_allclose(predict_conditions(classifier, mix, counts=counts), p, atol=1e-3)


def counts_of(condition: np.ndarray, effect: float, seed: int = 0, n_types: int = 4) -> CellCounts:
    rng = np.random.default_rng(seed)
    logit = 0.3 * rng.normal(size=(len(condition), n_types))
    logit[:, 0] += effect * condition
    shares = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    types = np.stack([rng.multinomial(200, row) for row in shares]).astype(float)
    return CellCounts(types.sum(1), types)


def test_annotated_types_carry_the_prediction_where_only_they_differ() -> None:
    mix, condition = cohort(3, p=48)
    counts = counts_of(condition, 2.0)
    train, new = np.arange(24), np.arange(24, 48)
    classifier = fit_classifier(mix.subset(train), condition[train], QUICK, counts=counts.subset(train))
    assert classifier.family_weights()["types"] > 0.9
    p = predict_conditions(classifier, mix.subset(new), counts=counts.subset(new))
    assert (p.argmax(axis=1) == condition[new]).mean() > 0.9
    with pytest.raises(ValueError, match="must be counted"):
        predict_conditions(classifier, mix.subset(new))


def test_a_moved_state_is_seen_beside_annotated_types() -> None:
    mix, condition = cohort(0, p=24, shift=2.5)
    classifier = fit_classifier(mix, condition, QUICK, counts=counts_of(condition, 0.0))
    weights = classifier.family_weights()
    assert weights["state"] + weights["spread"] + weights["means"] > 0.8


@pytest.mark.parametrize(("effect", "family"), [({"shift": 2.5}, "means"), ({"width": 1.5}, "variances")])
def test_few_patients_suffice_where_the_states_themselves_differ(effect: dict[str, float], family: str) -> None:
    """Coordinates of each state need no metric, which eight patients could not determine."""
    mix, condition = cohort(4, p=48, **effect)
    counts = counts_of(condition, 0.0)
    train, new = np.arange(8), np.arange(8, 48)
    classifier = fit_classifier(mix.subset(train), condition[train], QUICK, counts=counts.subset(train))
    assert classifier.family_weights()[family] > 0.1
    p = predict_conditions(classifier, mix.subset(new), counts=counts.subset(new))
    assert (p.argmax(axis=1) == condition[new]).mean() > 0.9


def test_a_type_that_no_training_patient_has_is_ignored() -> None:
    mix, condition = cohort(3, p=24)
    counts = counts_of(condition, 2.0)
    empty = replace(counts, types=np.c_[counts.types, np.zeros(24)])
    classifier = fit_classifier(mix, condition, QUICK, counts=empty)
    more = replace(counts, types=np.c_[counts.types, np.full(24, 50.0)])
    expected = predict_conditions(classifier, mix, counts=empty)
    np.testing.assert_allclose(predict_conditions(classifier, mix, counts=more), expected)
