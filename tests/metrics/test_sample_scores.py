"""Scores of distances between samples, against hand-made cohorts and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from muport.metrics import replicate_retrieval, sample_batch_removal, sample_information, sample_trajectory

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 3))
BETWEEN = np.linalg.norm(POINTS[:, None] - POINTS, axis=2)
NAMES = [f"S{i}" for i in range(40)]
TABLE = pd.DataFrame(BETWEEN, NAMES, NAMES)


def test_information_of_classes_is_that_of_scikit_learn():
    label = np.where(POINTS[:, 0] > 0, "b", "a")
    predicted = [
        KNeighborsClassifier(5).fit(np.delete(POINTS, i, 0), np.delete(label, i)).predict(POINTS[[i]])[0]
        for i in range(40)
    ]
    assert sample_information(BETWEEN, label) == pytest.approx(f1_score(label, predicted, average="macro"))


def test_values_are_matched_by_name_and_missing_ones_left_out():
    score = pd.Series(POINTS[:, 0], NAMES)
    value = sample_information(TABLE, score)
    assert value > 0.6
    assert sample_information(TABLE, score.sample(frac=1, random_state=0)) == value
    missing = score.copy()
    missing.iloc[:5] = np.nan
    assert sample_information(TABLE, missing) == sample_information(TABLE.iloc[5:, 5:], score.iloc[5:])
    assert abs(sample_information(TABLE, pd.Series(RNG.normal(size=40), NAMES))) < 0.4


def test_batch_removal_is_one_by_chance_and_zero_if_batches_are_apart():
    scores = [sample_batch_removal(BETWEEN, np.random.default_rng(i).integers(0, 2, 40)) for i in range(8)]
    assert np.mean(scores) > 0.85
    batch = np.repeat(["x", "y"], 20)
    apart = BETWEEN + 100 * (batch[:, None] != batch)
    assert sample_batch_removal(apart, batch) == 0
    assert np.isnan(sample_batch_removal(BETWEEN, np.zeros(40)))


def test_trajectory_follows_a_curve():
    t = np.sort(RNG.uniform(size=40))
    curve = np.column_stack([np.cos(4 * t), np.sin(4 * t)])
    between = np.linalg.norm(curve[:, None] - curve, axis=2)
    assert sample_trajectory(between, t) > 0.95
    assert abs(sample_trajectory(between, RNG.permutation(t))) < 0.4
    assert np.isnan(sample_trajectory(between, np.ones(40)))
    assert sample_trajectory(pd.DataFrame(between, NAMES, NAMES), pd.Series(t, NAMES), root="S0") > 0.95


def test_replicates_find_each_other():
    halves = np.repeat(POINTS, 2, axis=0) + 1e-3 * RNG.normal(size=(80, 3))
    between = np.linalg.norm(halves[:, None] - halves, axis=2)
    person = np.repeat(np.arange(40), 2)
    assert replicate_retrieval(between, person) == 1
    assert replicate_retrieval(between, RNG.permutation(person)) < 0.2
    assert np.isnan(replicate_retrieval(BETWEEN, np.arange(40)))


@pytest.mark.parametrize(
    ("distances", "values", "error", "match"),
    [
        (BETWEEN[:3], np.zeros(3), ValueError, "square"),
        (BETWEEN, np.zeros(3), ValueError, "3 entries for 40"),
        (np.where(BETWEEN > 1, np.nan, 0), np.zeros(40), ValueError, "finite"),
        (TABLE, pd.Series(np.zeros(3), NAMES[:3]), KeyError, "'S3'"),
        (BETWEEN, np.full(40, np.nan), ValueError, "known for 0"),
    ],
)
def test_bad_inputs_are_refused(distances, values, error, match):
    with pytest.raises(error, match=match):
        sample_information(distances, values)


SCORES = {
    "values": lambda distances, column: sample_information(distances, column),
    "batch": lambda distances, column: sample_batch_removal(distances, column, n_permutations=5),
    "person": lambda distances, column: replicate_retrieval(distances, column),
}
LEVEL = pd.Series(np.where(POINTS[:, 0] > 0, 2, 1), NAMES)


@pytest.mark.parametrize("name", SCORES)
def test_values_are_one_category_in_every_spelling(name):
    score, text = SCORES[name], LEVEL.astype(str)
    expected = score(TABLE, text)
    for column in (
        LEVEL.astype("category"), LEVEL.astype(float).astype("category"), text.to_dict(), text.astype("string"),
        text.sample(frac=1, random_state=0), LEVEL == 2, text.astype(pd.CategoricalDtype(["3", "2", "1"])),
    ):  # fmt: skip
        assert score(TABLE, column) == expected
    # numbers beside None are still numbers
    numbers = LEVEL.astype(object)
    numbers.iloc[3] = None
    assert score(TABLE, numbers) == score(TABLE, LEVEL.where(numbers.notna()))
    mixed = LEVEL.astype(object)
    mixed.iloc[::2] = text.iloc[::2]
    with pytest.raises(ValueError, match=f"{name} holds"):
        score(TABLE, mixed)


@pytest.mark.parametrize("name", SCORES)
def test_tables_that_are_no_distances_are_refused(name):
    score = SCORES[name]
    order = RNG.permutation(40)
    assert score(TABLE.iloc[order, RNG.permutation(40)], LEVEL) == score(TABLE, LEVEL)
    asymmetric, repeated = BETWEEN + np.triu(np.ones((40, 40))), ["S0", *NAMES[:-1]]
    for wrong in (-BETWEEN, asymmetric, BETWEEN + 1j, TABLE.astype(str) + "x"):
        with pytest.raises((TypeError, ValueError), match="distances"):
            score(wrong, LEVEL.to_numpy())
    with pytest.raises(ValueError, match="'S0'"):
        score(pd.DataFrame(BETWEEN, repeated, repeated), LEVEL)
    with pytest.raises(ValueError, match="'S0'"):
        score(TABLE, pd.concat([LEVEL, LEVEL.iloc[:1]]))


def test_an_order_is_finite_numbers():
    for order in (pd.Series(POINTS[:, 0], NAMES).replace(POINTS[0, 0], np.inf), LEVEL.astype(str) + "x"):
        with pytest.raises((TypeError, ValueError), match="order"):
            sample_trajectory(TABLE, order)
    with pytest.raises(KeyError, match="root"):
        sample_trajectory(TABLE, LEVEL, root=["S0"])
