"""Cross-validation: nothing of a held-out patient is seen, and permuted conditions give chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from muport.gmm.metric._log_ratios import CellCounts
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._mixtures import Mixtures
from muport.gmm.mixtures._pooled_prior import fit_pooled_priors
from muport.gmm.prediction import _cross_validation, _tuning
from muport.gmm.prediction._cross_validation import CrossValidation, score_predictions
from muport.gmm.prediction._labeled_cells import LabeledCells
from muport.gmm.prediction._patient_classifier import fit_classifier, predict_conditions

OPTIONS: dict[str, Any] = {"ridge": 3.0, "tau": 1.0, "mix": (1.0, 0.0)}
QUICK = MetricSettings(**OPTIONS)


def mixture_fitter(k: int = 8) -> Any:
    """Mixtures of k components with the pooled prior of the training patients."""

    def fit(x: np.ndarray, sample: np.ndarray, _: None = None) -> Any:
        priors = fit_pooled_priors(x, sample, [k])
        return lambda cells, code, _=None: fit_mixtures(cells, code, k, prior=priors).mixtures

    return fit


def cross_validate(
    x: np.ndarray, sample: np.ndarray, condition: np.ndarray, group: np.ndarray | None = None,
    fitter: Any = mixture_fitter(), **options: Any,
) -> CrossValidation:  # fmt: skip
    return _cross_validation.cross_validate(LabeledCells.check(x, sample, condition, group), fitter, QUICK, **options)


def cohort(seed: int = 0, *, p: int = 12, n: int = 60, shift: float = 4.0, d: int = 4) -> tuple[np.ndarray, ...]:
    """Cells of two states; the condition moves one of them."""
    rng = np.random.default_rng(seed)
    condition = rng.permutation(np.arange(p) % 2)
    sample = rng.permutation(np.repeat(np.arange(p), n))
    state = rng.integers(2, size=p * n)
    x = rng.normal(size=(p * n, d)) + 8 * state[:, None] * np.eye(d)[0] + 0.2 * rng.normal(size=(p, d))[sample]
    x[:, 1] += shift * (state == 0) * condition[sample]
    return x, sample, condition


def test_a_clear_signal_is_predicted():
    x, sample, condition = cohort()
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_permutations=19)
    assert found.balanced_accuracy == 1
    assert found.auroc == found.pooled_auroc == 1
    assert found.log_loss < 0.2
    # one patient of each condition in each fold
    assert all(sorted(condition[found.fold == fold]) == [0, 1] for fold in range(6))
    assert all(1 / 20 <= p <= 0.3 for p in found.p_values.values())
    np.testing.assert_array_equal(found.confusion, np.diag(np.bincount(condition)))
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    np.testing.assert_allclose(found.families.sum(1), 1)


def test_each_prediction_is_that_of_a_fit_to_the_others():
    x, sample, condition = cohort(1)
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=12)
    rest = np.delete(np.arange(12), 4)
    code = np.searchsorted(rest, sample[sample != 4])
    transform = mixture_fitter(2)(x[sample != 4], code)
    counts = CellCounts.count(code, len(rest))
    classifier = fit_classifier(transform(x[sample != 4], code), condition[rest], QUICK, counts=counts)
    alone = np.zeros((sample == 4).sum(), int)
    new = transform(x[sample == 4], alone)
    expected = predict_conditions(classifier, new, counts=CellCounts.count(alone, 1))[0]
    np.testing.assert_allclose(found.probabilities[4], expected)


def test_a_held_out_condition_is_not_seen():
    x, sample, condition = cohort(2, shift=1.0)
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=12)
    changed = condition.copy()
    changed[3] = 1 - changed[3]
    again = cross_validate(x, sample, changed, fitter=mixture_fitter(2), n_folds=12)
    np.testing.assert_allclose(again.probabilities[3], found.probabilities[3])
    assert not np.allclose(again.probabilities[5], found.probabilities[5])


def test_the_fitter_sees_training_patients_only():
    x, sample, condition = cohort(3, p=6, n=10)
    seen = []

    def fitter(cells: np.ndarray, code: np.ndarray, _: None) -> Any:
        seen.append({tuple(row) for row in cells})
        return lambda values, patient, _: Mixtures(
            np.ones((patient.max() + 1, 1)),
            np.stack([values[patient == i].mean(0) for i in range(patient.max() + 1)])[:, None],
            np.ones((patient.max() + 1, 1, 4)),
            "diag",
        )

    group = np.array([0, 0, 1, 2, 3, 4])
    cross_validate(x, sample, condition, group=group, fitter=fitter, n_folds=5)
    assert len(seen) == 5
    whole = {tuple(row) for row in x[group[sample] == 0]}
    assert sum(not (cells & whole) for cells in seen) == 1
    assert all(len(cells) == 50 or len(cells) == 40 for cells in seen)


def test_permuted_conditions_give_chance():
    x, sample, condition = cohort(4, p=16, n=30)
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=4, n_permutations=8)
    assert found.balanced_accuracy > 0.9
    assert found.null.shape == (8, 2)
    assert 0.3 < found.null[:, 0].mean() < 0.62


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(5)
    p, condition = rng.dirichlet(np.ones(3), size=40).round(1), rng.integers(3, size=40)
    p /= p.sum(1, keepdims=True)
    accuracy, area, loss = score_predictions(p, condition)
    assert accuracy == pytest.approx(balanced_accuracy_score(condition, p.argmax(1)))
    assert area == pytest.approx(np.mean([roc_auc_score(condition == c, p[:, c]) for c in range(3)]))
    assert loss > 0


def test_area_compares_patients_of_one_fold():
    p = np.array([0.9, 0.8, 0.2, 0.1, 0.5, 0.5])
    condition, fold = np.array([1, 0, 1, 0, 1, 0]), np.array([0, 0, 1, 1, 2, 2])
    p = np.c_[1 - p, p]
    assert score_predictions(p, condition, fold)[1] == pytest.approx((1 + 1 + 0.5) / 3)
    assert score_predictions(p, condition)[1] == pytest.approx((3 + 1 + 1.5) / 9)
    assert np.isnan(score_predictions(p, condition, np.arange(6))[1])


def test_area_of_data_without_signal_is_not_biased():
    """Each prediction is the share of condition 1 among the others: pooled, that is worse than chance."""
    rng = np.random.default_rng(0)
    pooled, within = [], []
    for _ in range(300):
        condition = rng.permutation(np.arange(20) % 2)
        x = rng.normal(size=20)
        for fold, scores in ((np.arange(20), pooled), (np.argsort(np.argsort(condition)) % 10, within)):
            p = np.empty(20)
            for rows in (np.flatnonzero(fold == f) for f in np.unique(fold)):
                rest = np.delete(np.arange(20), rows)
                means = [x[rest][condition[rest] == c].mean() for c in (0, 1)]
                p[rows] = condition[rest].mean() + 0.1 * np.sign(means[1] - means[0]) * (x[rows] - np.mean(means))
            p = np.c_[1 - p, p]
            scores.append(score_predictions(p, condition, fold if scores is within else None)[1])
    assert np.mean(pooled) < 0.45
    assert abs(np.mean(within) - 0.5) < 0.025


@pytest.mark.parametrize(("sizes", "folds"), [((6, 14), 6), ((2, 20), 5), ((3, 3), 5), ((30, 20), 20)])
def test_default_folds_have_every_condition(sizes, folds):
    condition = np.repeat((0, 1), sizes)
    cells = LabeledCells.check(np.zeros((len(condition), 1)), np.arange(len(condition)), condition)
    assert len(_cross_validation.make_folds(cells, None)) == folds


def test_confusion_and_intervals():
    x, sample, condition = cohort(6, shift=1.5)
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=3)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(condition, found.probabilities.argmax(1)))
    for name, value in (("balanced_accuracy", found.balanced_accuracy), ("auroc", found.auroc)):
        low, high = found.intervals[name]
        assert 0 <= low <= value <= high <= 1
    again = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=3)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert again.intervals == found.intervals
    lines = repr(found).splitlines()
    assert lines[0] == "CrossValidation: 12 patients, 2 conditions, 3 folds"
    low, high = found.intervals["auroc"]
    assert lines[2].split() == ["auroc", f"{found.auroc:.3f},", *f"95 % interval {low:.3f} to {high:.3f}".split()]
    assert len(lines) == 4


def test_a_row_for_each_patient_with_names():
    x, sample, condition = cohort(6)
    steps = []
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=3, report=steps.append)
    assert steps == [f"{what} of fold {i} of 3" for what in ("mixtures", "conditions") for i in (1, 2, 3)]
    names = tuple(f"P{i}" for i in range(12))
    table = replace(found, samples=names, conditions=("control", "case")).to_frame()
    assert table.index.tolist() == list(names)
    assert table["known"].tolist() == np.array(["control", "case"])[condition].tolist()
    p = table[["probability of control", "probability of case"]]
    np.testing.assert_array_equal(p, found.probabilities)
    np.testing.assert_array_equal(table["predicted"] == "case", p.to_numpy().argmax(axis=1) == 1)
    np.testing.assert_array_equal(table["fold"], found.fold)
    assert found.to_frame().index.tolist() == list(range(12))


def test_three_conditions():
    x, sample, _ = cohort(8, p=12, shift=0.0)
    condition = np.arange(12) % 3
    x[:, 1:] += 4 * np.eye(3)[condition[sample]]
    found = cross_validate(x, sample, condition, fitter=mixture_fitter(2), n_folds=4)
    assert found.probabilities.shape == (12, 3)
    assert found.balanced_accuracy > 0.8


def test_tuning_is_nested():
    x, sample, condition = cohort(9, p=10, n=40)
    x[:, 1] += 30 * (np.arange(len(x)) % 3 == 0)  # an axis of noise, along which one component is too few
    found = _tuning.tune(
        LabeledCells.check(x, sample, condition), {"fitter__k": (1, 2), "tau": (1.0,)}, mixture_fitter,
        lambda **options: MetricSettings(**{**OPTIONS, **options}), n_folds=2, n_inner=2,
    )  # fmt: skip
    assert list(found.table["fitter__k"]) == [1, 2]
    assert found.best["fitter__k"] == found.table.sort_values("log_loss")["fitter__k"].iloc[0]
    assert len(found.chosen) == 2
    assert found.outer.probabilities.shape == (10, 2)
    # the choice of a fold is that of its training patients alone
    rest = np.flatnonzero(found.outer.fold != 0)
    inside = np.isin(sample, rest)
    losses = [
        cross_validate(x[inside], np.searchsorted(rest, sample[inside]), condition[rest], fitter=mixture_fitter(k),
                       n_folds=2).log_loss
        for k in (1, 2)
    ]  # fmt: skip
    assert found.chosen[0]["fitter__k"] == int(np.argmin(losses)) + 1


def test_bad_input():
    x, sample, condition = cohort(10, p=6, n=10)
    for change, match in (
        ({"condition": condition * 0}, "one value only"),
        ({"condition": condition[:-1]}, "entries for 6 samples"),
        ({"sample": sample[:-1]}, "one row per cell"),
        ({"sample": sample * 2}, "integer codes"),
        ({"group": np.arange(5)}, "group has"),
        ({"n_folds": 1}, "n_folds=1"),
        ({"n_folds": 7}, "n_folds=7 is more than the 6 patients"),
        ({"n_folds": 6, "group": np.arange(6) // 2}, "at most 3"),
        ({"condition": np.array([0, 0, 0, 0, 0, 1])}, "no patient left"),
    ):
        with pytest.raises(ValueError, match=match):
            cross_validate(**{"x": x, "sample": sample, "condition": condition, **change})
    with pytest.raises(ValueError, match="grid is empty"):
        _tuning.tune(LabeledCells.check(x, sample, condition), {}, mixture_fitter, MetricSettings)
