"""Label transfer: votes, classifiers in a modality's own space, calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from muport.integration._fitted_state import LabelModel
from muport.integration.labels import _label_transfer
from muport.integration.labels._label_transfer import fit_labels, predict_labels

NAMES = ("A", "B", "C")


def blobs(n: int = 300, apart: float = 3.0, seed: int = 0, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    code = rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    return (apart * np.eye(3, d)[code] + rng.normal(size=(n, d))).astype(np.float32), code


def one_view(n: int, own: np.ndarray | None = None) -> dict:
    return {"rna": (np.arange(n), own)}


def ece(p: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: the gap of confidence and accuracy over bins of confidence."""
    confidence, right = p.max(1), p.argmax(1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return sum(abs(right[which == b].mean() - confidence[which == b].mean()) * (which == b).mean() for b in set(which))


@pytest.mark.parametrize("own", [False, True])
def test_probabilities(own):
    z, code = blobs()
    known = np.where(np.arange(300) % 3 == 0, -1, code)
    views = one_view(300, np.hstack([z, z**2]) if own else None)
    p = predict_labels(z, fit_labels(z, known, NAMES, views, 0), views)
    assert p.shape == (300, 3)
    assert p.dtype == np.float32
    assert (p >= 0).all()
    assert (p <= 1).all()
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    assert (p.argmax(1) == code)[known < 0].mean() > 0.85


def test_a_labeled_cell_does_not_vote_for_itself():
    z, _ = blobs(apart=0.0)
    code = np.random.default_rng(1).integers(3, size=300)
    labels = fit_labels(z, code, NAMES, one_view(300), 0)
    # labels say nothing here, so a vote of one's own would be the only way to be right
    right = (predict_labels(z, labels, one_view(300)).argmax(1) == code).mean()
    assert right < 0.45
    assert labels.inverse_temperature["rna"] < 0.5


def test_a_query_near_a_labeled_cell_is_decided_by_it():
    z, _ = blobs(apart=0.0, d=8)
    code = np.random.default_rng(1).integers(3, size=300)
    labels = fit_labels(z, code, NAMES, one_view(300), 0)
    near = z + np.float32(1e-3)
    assert (predict_labels(near, labels, one_view(300)).argmax(1) == code).mean() > 0.5


def test_votes_are_loops():
    z, code = blobs(80)
    labels = fit_labels(z[:60], code[:60], NAMES, one_view(60), 0)

    def features(x: np.ndarray) -> np.ndarray:
        return np.hstack([x, x / np.linalg.norm(x, axis=1, keepdims=True)]).astype(float)

    distance = np.linalg.norm(features(z[60:])[:, None] - features(z[:60])[None], axis=2)
    frequency = np.bincount(code[:60], minlength=3) / 60
    logit, nearest = _label_transfer._compute_log_votes(z[60:], labels)
    for row in range(20):
        near = distance[row].argsort()[:30]
        weight = np.exp(-distance[row, near] / np.median(distance[row, near]))
        votes = np.bincount(code[:60][near], weight, 3)
        assert np.allclose(logit[row], np.log(votes + 0.5 * frequency), atol=1e-3)
        assert nearest[row] == pytest.approx(distance[row].min(), rel=1e-3)


def test_far_from_every_label_confidence_is_low():
    z, code = blobs()
    labels = fit_labels(z, code, NAMES, one_view(300), 0)
    direction = np.float32([0, 0, 0, 1])
    sure = [predict_labels((z[:1] + s * direction), labels, one_view(1)).max() for s in (0, 20, 200)]
    assert sure[0] > 0.8
    assert sure[0] > sure[1] > sure[2]
    assert sure[2] == pytest.approx(1 / 3, abs=0.01)


def test_an_absent_type_has_low_confidence():
    z, code = blobs(600, apart=6.0)
    labels = fit_labels(z[code < 2], code[code < 2], NAMES[:2], one_view(int((code < 2).sum())), 0)
    p = predict_labels(z, labels, one_view(600))
    assert np.median(p[code == 2].max(1)) < 0.8
    assert np.median(p[code < 2].max(1)) > 0.95


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("apart", [1.0, 2.0, 4.0])
def test_confidence_is_calibrated(apart, own):
    z, code = blobs(1500, apart)
    other = blobs(1500, 0.0, seed=9)[0] + apart * np.eye(3, 4, dtype=np.float32)[code]
    known = np.where(np.arange(1500) % 2, code, -1)
    views = one_view(1500, other if own else None)
    p = predict_labels(z, fit_labels(z, known, NAMES, views, 0), views)
    assert ece(p[known < 0], code[known < 0]) <= 0.1


def across(dependent: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, truth and votes alone of 800 cells of a modality without labels."""
    z, code = blobs(1600, 2.0)
    own = blobs(1600, 0.0, seed=9)[0] + 1.5 * np.eye(3, 4, dtype=np.float32)[code]
    theirs = np.hstack([z, z**2])[800:] if dependent else own[800:, ::-1].copy()
    views = {"rna": (np.arange(800), own[:800]), "atac": (np.arange(800, 1600), theirs)}
    labels = fit_labels(z, np.where(np.arange(1600) < 800, code, -1), NAMES, views, 0)
    votes = predict_labels(z, labels, {"atac": (views["atac"][0], None)})[800:]
    return predict_labels(z, labels, views)[800:], code[800:], votes


def test_across_modalities_with_equal_views():
    p, truth, _ = across(dependent=True)
    assert ece(p, truth) <= 0.1


def test_across_modalities_with_independent_views():
    p, truth, votes = across(dependent=False)
    right = (p.argmax(1) == truth).mean()
    assert right >= (votes.argmax(1) == truth).mean() + 0.03
    # the temperature cannot know that the views are independent: it errs on the side of doubt
    assert right - 0.25 <= p.max(1).mean() <= right + 0.02


def test_ties_are_even():
    z = np.repeat(np.float32([[1, 0], [-1, 0], [0, 1]]), 10, axis=0)
    z += np.random.default_rng(0).normal(scale=1e-3, size=z.shape).astype(np.float32)
    code = np.repeat([0, 1, 0], 10)
    labels = fit_labels(z[:20], code[:20], NAMES[:2], one_view(20), 0)
    p = predict_labels(np.zeros((1, 2), np.float32), labels, one_view(1))
    assert p[0] == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_few_labeled_cells(n, own):
    z, code = blobs(60)
    known = np.where(np.arange(60) < n, code, -1)
    views = one_view(60, z**2 if own else None)
    p = predict_labels(z, fit_labels(z, known, NAMES, views, 0), views)
    assert np.isfinite(p).all()
    assert np.allclose(p.sum(1), 1, atol=1e-5)


def test_one_label_is_certain():
    z, _ = blobs(60)
    labels = fit_labels(z, np.zeros(60, np.int64), ("A",), one_view(60, z**2), 0)
    assert np.array_equal(predict_labels(z, labels, one_view(60, z**2)), np.ones((60, 1)))


def test_identical_cells():
    z = np.ones((60, 3), np.float32)
    code = np.arange(60) % 3
    p = predict_labels(z, fit_labels(z, code, NAMES, one_view(60), 0), one_view(60))
    assert np.isfinite(p).all()
    assert p.max() < 0.6


def test_voters_are_balanced_and_stand_for_all(monkeypatch):
    monkeypatch.setattr(_label_transfer, "_MAX_VOTERS", 90)
    code = np.repeat([0, 1, 2], [500, 200, 10])
    rows, weight = _label_transfer._sample_voters(code, 4, np.random.default_rng(0))
    assert len(rows) == len(np.unique(rows)) == 90
    assert np.bincount(code[rows]).tolist() == [40, 40, 10]
    assert np.bincount(code[rows], weight) == pytest.approx([500, 200, 10])
    z, truth = blobs(400)
    p = predict_labels(z, fit_labels(z, truth, NAMES, one_view(400), 0), one_view(400))
    assert (p.argmax(1) == truth).mean() > 0.85


def test_the_own_classifier_is_scikit_learns_discriminant(monkeypatch):
    monkeypatch.setattr(_label_transfer, "_PSEUDO_CELLS", 0.0)
    monkeypatch.setattr(_label_transfer, "_SHRINKAGE", 0.0)
    x, code = blobs(200)
    x = x @ np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32) + 5
    weights = _label_transfer._fit_discriminant(x, np.eye(3)[code])
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x, code)
    wanted = theirs.decision_function(x) - np.log(theirs.priors_)
    score = x @ weights[:-1] + weights[-1]
    # log likelihoods agree up to a function of x alone
    assert np.allclose(score - score[:, :1], wanted - wanted[:, :1], atol=1e-2)


def test_a_label_without_cells_has_no_weight():
    x, code = blobs(50)
    weights = _label_transfer._fit_discriminant(x, np.eye(4)[code])
    assert np.isfinite(weights).all()
    assert np.allclose(weights[:-1, 3], 0, atol=1e-4)


def test_temperature_is_the_likeliest():
    rng = np.random.default_rng(0)
    logit = 3 * rng.normal(size=(4000, 3))
    p = np.exp(0.4 * logit)
    p /= p.sum(1, keepdims=True)
    truth = (rng.random((4000, 1)) > p.cumsum(1)).sum(1)
    assert _label_transfer._fit_inverse_temperature(logit, truth) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("starts", [(0,), (0, 2)])
def test_votes_and_joint_classifiers_count_equally(starts):
    z, code = blobs(300, d=6)
    views = one_view(200, z[:200] ** 2)
    labels = replace(fit_labels(z[:200], code[:200], NAMES, views, 0, made_of_own=True), reach=float("inf"))
    assert [len(w) for w in labels.joint_classifiers] == [7]
    if len(starts) > 1:  # as in models of older versions
        further = np.random.default_rng(0).normal(size=(5, len(NAMES))).astype(np.float32)
        labels = replace(labels, subspace_starts=starts, joint_classifiers=(*labels.joint_classifiers, further))
    new = z[200:]
    logs = []
    for start, weights in zip(starts, labels.joint_classifiers, strict=True):
        part = replace(labels, position=labels.position[:, start:])
        logs += [
            _label_transfer._compute_log_votes(new[:, start:], part)[0],
            new[:, start:] @ weights[:-1] + weights[-1],
        ]
    combined = np.mean([log_softmax(values, axis=1) for values in logs], axis=0)
    logit = labels.inverse_temperature["rna"] * (
        combined + new**2 @ labels.modality_classifiers["rna"][:-1] + labels.modality_classifiers["rna"][-1]
    )
    p = predict_labels(new, labels, {"rna": (np.arange(100), new**2)})
    assert np.allclose(p, softmax(logit, axis=1), atol=1e-4)


def test_own_representations_that_the_space_contains_count_half():
    z, own, known, _ = with_extra(0)
    views = {"rna": (np.arange(400), None), "atac": (np.arange(400, 800), own[400:])}
    plain, half = (fit_labels(z, known, NAMES, views, 0, made_of_own=made_of_own) for made_of_own in (False, True))
    log_p = np.mean(
        [
            log_softmax(_label_transfer._compute_log_votes(z, half)[0], axis=1),
            log_softmax(z @ half.joint_classifiers[0][:-1] + half.joint_classifiers[0][-1], axis=1),
        ],
        axis=0,
    )[400:]
    expected = _label_transfer._fit_co_trained(log_p, known[400:], own[400:])
    np.testing.assert_allclose(half.modality_classifiers["atac"], expected / 2, atol=1e-3)
    # without labels, confidence follows what votes and classifier say alone, whatever the weight of the classifier
    confidence = [predict_labels(z, labels, views)[400:].max(axis=1).mean() for labels in (plain, half)]
    assert confidence[0] == pytest.approx(confidence[1], abs=0.05)


def test_without_a_representation_of_its_own_votes_decide():
    z, code = blobs(200)
    views = {"rna": (np.arange(100), None), "atac": (np.arange(100, 200), z[100:] ** 2)}
    labels = fit_labels(z, code, NAMES, views, 0, made_of_own=True)
    logit = labels.inverse_temperature["rna"] * _label_transfer._compute_log_votes(z, labels)[0][:100]
    p = predict_labels(z, replace(labels, reach=float("inf")), views)[:100]
    assert np.allclose(p, softmax(logit, axis=1), atol=1e-4)
    assert fit_labels(z, code, NAMES, one_view(200), 0, made_of_own=True).joint_classifiers == ()
    assert fit_labels(z, code, NAMES, views, 0).joint_classifiers == ()


def test_the_classifier_sees_through_noise_in_many_coordinates():
    z, code = blobs(1200, 2.0, d=80)
    known, hidden = np.where(np.arange(1200) < 600, code, -1), np.arange(600, 1200)
    views = {"rna": (np.arange(600), None), "atac": (hidden, np.zeros((600, 1), np.float32))}
    labels = fit_labels(z, known, NAMES, views, 0, made_of_own=True)
    right = [
        (predict_labels(z, labels, some_views)[hidden].argmax(1) == code[hidden]).mean()
        for some_views in (views, {m: (rows, None) for m, (rows, _) in views.items()})
    ]
    assert right[0] > right[1] + 0.02


def with_extra(n_extra: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labeled RNA, ATAC cells without labels that RNA hardly predicts, and further labeled rows; own ATAC and codes."""
    z, code = blobs(800 + n_extra, 0.8)
    own = 2.5 * np.eye(3, 5)[code] + np.random.default_rng(5).normal(size=(800 + n_extra, 5))
    known = np.where(np.arange(800 + n_extra) // 400 == 1, -1, code)
    return z, own.astype(np.float32), known, code


def test_rows_that_do_not_vote_are_used_by_classifiers_and_calibration():
    z, own, known, code = with_extra(300)
    atac = np.arange(400, 800)

    def fit_and_predict(n: int) -> tuple[np.ndarray, LabelModel]:
        rows = np.arange(400, n)
        views = {"rna": (np.arange(400), None), "atac": (rows, own[rows])}
        labels = fit_labels(z[:n], known[:n], NAMES, views, 0, n_voting=800)
        return predict_labels(z[:800], labels, {"rna": views["rna"], "atac": (atac, own[atac])})[atac], labels

    (without, few), (p, many) = fit_and_predict(800), fit_and_predict(1100)
    assert np.array_equal(few.position, many.position)
    assert len(many.position) == 400
    right = [(values.argmax(1) == code[atac]).mean() for values in (without, p)]
    assert right[1] > right[0] + 0.02
    assert ece(p, code[atac]) <= 0.08


def test_rows_that_do_not_vote_are_not_voted_for_by_rows_of_the_same_cell():
    z, _ = blobs(400, 0.0, d=8)
    code = np.random.default_rng(1).integers(3, size=200)
    twice = np.r_[np.arange(200), np.arange(200)]
    z[200:] = z[:200] + np.float32(0.02)
    views = {"rna": (np.arange(200), None), "atac": (np.arange(200, 400), None)}
    kept, left_out = (fit_labels(z, code[twice], NAMES, views, 0, cell, n_voting=200) for cell in (None, twice))
    # the labels say nothing, and so do the votes, once a cell's own is left out
    assert left_out.inverse_temperature["atac"] < 0.8
    assert kept.inverse_temperature["atac"] > 1.2


@pytest.mark.promise("No cell votes for its own label, whatever the size of the query")
def test_a_labeled_cell_is_recognized_in_spite_of_rounding(record_property):
    z, code = blobs()
    labels = fit_labels(z, code, NAMES, one_view(300), 0)
    expected = predict_labels(z, labels, one_view(300))
    for n in (1, 2, 5, 9, 50):
        rounded = z[:n] * np.float32(1 + 3e-7)
        assert np.abs(predict_labels(rounded, labels, one_view(n)) - expected[:n]).max() < 1e-3
    record_property("tries", 5)
