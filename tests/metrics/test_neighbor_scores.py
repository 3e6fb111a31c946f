"""Votes against scikit-learn, mixing against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from muport.metrics import batch_mixing, confusion_counts, iccoh, knn_labels, label_transfer


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    label = rng.choice(["B", "NK", "T"], p=[0.5, 0.2, 0.3], size=120)
    x = rng.normal(size=(120, 4)) + 1.2 * (label == "T")[:, None] - 0.8 * (label == "NK")[:, None]
    return x, label


@pytest.mark.parametrize("k", [1, 4, 15])
def test_votes_of_labeled_cells_are_scikit_learns(cells, k):
    x, label = cells
    query = np.random.default_rng(1).normal(size=(40, 4))
    expected = KNeighborsClassifier(k).fit(x, label).predict(query)
    assert knn_labels(x, label, query=query, k=k).tolist() == expected.tolist()


def test_nobody_votes_for_itself(cells):
    x, label = cells
    expected = cross_val_predict(KNeighborsClassifier(7), x, label, cv=LeaveOneOut())
    assert knn_labels(x, label, k=7).tolist() == expected.tolist()


def test_k_is_cut_to_the_cells():
    assert knn_labels([[0.0], [1.0]], ["a", "b"], k=15).tolist() == ["b", "a"]


def test_mixing_is_one_for_neighbors_drawn_at_random():
    """With all others as neighbors the observed share is the expected one, whatever the sizes."""
    batch = np.repeat(["a", "b", "c"], [30, 15, 5])
    x = np.random.default_rng(0).normal(size=(50, 3))
    assert batch_mixing(x, batch, k=49) == pytest.approx(1, abs=1e-12)
    rng = np.random.default_rng(2)
    assert batch_mixing(rng.normal(size=(3000, 5)), rng.choice(["a", "b"], p=[0.9, 0.1], size=3000)) == pytest.approx(
        1, abs=0.05
    )


def test_mixing_is_zero_for_separate_batches_and_grows_between():
    rng = np.random.default_rng(0)
    x, batch = rng.normal(size=(200, 3)), np.repeat(["a", "b"], 100)
    gaps = [batch_mixing(x + gap * (batch == "b")[:, None], batch) for gap in (0, 1, 2, 20)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == 0


def test_mixing_by_hand():
    # nearest others: 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 2; batches a b b a: other, other, same, other
    observed, expected = 3 / 4, 2 * 2 * 2 / (4 * 3)
    assert batch_mixing([[0.0], [1.0], [2.1], [4.0]], list("abba"), k=1) == pytest.approx(observed / expected)


def test_one_batch_has_no_mixing():
    assert np.isnan(batch_mixing(np.zeros((3, 1)), ["a", "a", "a"]))


@pytest.mark.parametrize("score", [knn_labels, batch_mixing])
def test_lengths_must_agree(score):
    with pytest.raises(ValueError, match=r"shape \(2,\), but x has 3 cells"):
        score(np.zeros((3, 1)), ["a", "b"])


def test_categories_that_differ_in_type_are_refused():
    x, mixed = np.arange(8.0)[:, None], [1, "1"] * 4
    for score in (lambda: batch_mixing(x, mixed), lambda: knn_labels(x, mixed), lambda: iccoh(x, x, mixed)):
        with pytest.raises(ValueError, match="holds 1"):
            score()
    assert label_transfer([1, 2, 2], [1.0, 2.0, None]).accuracy == pytest.approx(2 / 3)
    assert confusion_counts([1, 2], ["1", "2"]).to_numpy().tolist() == [[1, 0], [0, 1]]
