"""Cross-validation of outcomes: known dependences are recovered, and scores without signal are those of chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._pooled_prior import fit_pooled_priors
from muport.gmm.prediction._labeled_cells import LabeledCells
from muport.gmm.prediction._outcome_predictor import OutcomePrediction, fit_outcome, predict_outcome
from muport.gmm.prediction._outcome_validation import OutcomeValidation, _Scorer, validate_outcome
from muport.gmm.prediction._outcomes import Outcome

QUICK = MetricSettings(n_comps=2, ridge=1.0, offset=False, mix=(1.0, 0.0), bures=False)
Z = np.zeros(60, np.int64)


def fitter(x: np.ndarray, sample: np.ndarray, _: None = None) -> Any:
    priors = fit_pooled_priors(x, sample, [2])
    return lambda cells, code, _=None: fit_mixtures(cells, code, 2, prior=priors).mixtures


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sixty patients; a score moves one of two states by one standard deviation."""
    rng = np.random.default_rng(1)
    score, sample = rng.normal(size=60), np.repeat(np.arange(60), 40)
    state = rng.integers(2, size=len(sample))
    x = rng.normal(size=(len(sample), 4)) + 8 * state[:, None] * np.eye(4)[0] + 0.2 * rng.normal(size=(60, 4))[sample]
    x[:, 1] += (state == 0) * score[sample]
    return x, sample, score


def validated(cohort, outcome: Outcome, **options: Any) -> OutcomeValidation:
    x, sample, _ = cohort
    cells = LabeledCells.check(x, sample, outcome.slices(), options.pop("group", None))
    return validate_outcome(cells, outcome, fitter, QUICK, **options)


def test_a_score_is_recovered(cohort):
    score = cohort[2]
    found = validated(cohort, Outcome("continuous", 10 + 3 * score, Z), n_permutations=1)
    assert found.scores["spearman"] > 0.8
    assert found.scores["r2"] > 0.6
    assert found.p_values == {"spearman": 0.5, "r2": 0.5}
    assert abs(found.null[0, 0]) < 0.4
    assert all(low < found.scores[name] < high for name, (low, high) in found.intervals.items())
    table = found.to_frame()
    assert 0.85 <= table["known"].between(table["lower"], table["upper"]).mean() <= 1
    assert found.scores["r2"] == pytest.approx(r2_score(table["known"], table["predicted"]), abs=0.02)
    again = validated(cohort, Outcome("continuous", 10 + 3 * score, Z))
    np.testing.assert_array_equal(again.value, found.value)


def test_levels_are_recovered(cohort):
    levels = np.digitize(cohort[2], [-0.7, 0.7]).astype(float)
    found = validated(cohort, Outcome("ordinal", levels, Z, ("low", "middle", "high")))
    assert found.scores["concordance"] > 0.85
    table = found.to_frame()
    assert (table["known"] == table["predicted"]).mean() > 0.6
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    np.testing.assert_allclose(found.probabilities.mean(0), np.bincount(levels.astype(int)) / 60, atol=0.1)


def test_risks_are_recovered(cohort):
    rng = np.random.default_rng(2)
    time, last = rng.exponential(np.exp(-1.8 * cohort[2])), rng.exponential(3, size=60)
    outcome = Outcome("survival", np.minimum(time, last), (time <= last).astype(int))
    truth = _Scorer.of(outcome, OutcomePrediction(cohort[2], Z * 0.0, np.zeros((60, 0)), cohort[2]), Z)
    assert 0.78 < truth.scores(np.ones(60, int))[0] < 0.85
    found = validated(cohort, outcome)
    assert found.scores["c_index"] > 0.75
    assert found.to_frame()["event"].sum() == outcome.event.sum()


def test_a_held_out_outcome_is_not_seen(cohort):
    x, sample, score = cohort
    outcome = Outcome("continuous", score, Z)
    rest, left = np.arange(48), np.arange(48, 60)
    inside = sample < 48
    transform = fitter(x[inside], sample[inside])
    train = transform(x[inside], sample[inside])
    predictor = fit_outcome(train, outcome.subset(rest), QUICK)
    new = predict_outcome(predictor, transform(x[~inside], sample[~inside] - 48))
    assert spearmanr(new.value, score[left])[0] > 0.6
    # another patient among those that are predicted changes nothing
    fewer = predict_outcome(predictor, transform(x[~inside], sample[~inside] - 48).subset(np.array([3])))
    assert fewer.value[0] == pytest.approx(new.value[3])


def test_scores_are_those_of_scipy_and_of_pairs():
    rng = np.random.default_rng(2)
    y, f = rng.normal(size=30).round(1), rng.normal(size=30)
    fold, times = np.arange(30) % 2, rng.integers(3, size=30)
    prediction = OutcomePrediction(f, np.ones(30), np.zeros((30, 0)), f)
    found = _Scorer.of(Outcome("continuous", y, Z[:30]), prediction, fold).scores(times)
    rows = np.repeat(np.arange(30), times)
    assert found[0] == pytest.approx(spearmanr(f[rows], y[rows])[0])
    assert found[1] == pytest.approx(1 - np.square(y - f)[rows].sum() / np.square(y)[rows].sum())
    event = rng.integers(2, size=30)
    (found,) = _Scorer.of(Outcome("survival", np.abs(y), event), prediction, fold).scores(np.ones(30, int))
    won = [
        float(f[i] > f[j])
        for i in range(30) for j in range(30)
        if i != j and fold[i] == fold[j] and event[i]
        and (abs(y[i]) < abs(y[j]) or (abs(y[i]) == abs(y[j]) and not event[j]))
    ]  # fmt: skip
    assert found == pytest.approx(np.mean(won))


def test_strata_keep_their_outcomes(cohort):
    strata = (cohort[2] > 0).astype(int)
    found = validated(cohort, Outcome("continuous", strata.astype(float), Z), n_permutations=1, strata=strata)
    assert found.null[0, 0] == found.scores["spearman"]


def test_bad_input(cohort):
    with pytest.raises(ValueError, match="n_folds=1"):
        validated(cohort, Outcome("continuous", cohort[2], Z), n_folds=1)
    event = np.where(np.arange(60) < 2, 1, 0)
    with pytest.raises(ValueError, match="outside a fold: the event happened in 1"):
        validated(cohort, Outcome("survival", np.arange(60.0), event), n_folds=2)
