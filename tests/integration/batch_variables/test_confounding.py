"""What cannot be separated, and explained variance against least squares of statsmodels' kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration.batch_variables._confounding import find_confounding
from muport.integration.batch_variables._explained_variance import explain_variance


def test_crossed_variables_are_separated():
    found = find_confounding(["a", "b"], {(a, b): 10 for a in "pqr" for b in "xy"})
    assert found.explained == pytest.approx({"a": 0, "b": 0}, abs=1e-12)
    assert found.rank == found.n_effects == 3
    assert found.sentences == found.same == ()


def test_a_variable_that_is_nested_is_named():
    found = find_confounding(["donor", "site"], {("p", "x"): 5, ("q", "x"): 5, ("r", "y"): 9, ("s", "y"): 3})
    assert (found.rank, found.n_effects) == (3, 4)
    assert found.explained["site"] == pytest.approx(1)
    assert 0 < found.explained["donor"] < 1
    assert "Each level of 'donor' occurs in one level of 'site' only" in found.sentences[0]
    assert "1 of 4 differences" in found.sentences[1]


def test_variables_that_are_the_same_are_named():
    found = find_confounding(["donor", "site"], {("p", "x"): 5, ("q", "y"): 5, ("r", "z"): 5})
    assert found.same == (("donor", "site"),)
    assert "divide the cells alike" in found.sentences[0]


def test_parts_without_common_levels_are_named():
    first = {(a, b): 4.0 for a in "pq" for b in "xy"}
    second = {(a, b): 4.0 for a in "rs" for b in "zw"}
    found = find_confounding(["donor", "site"], first | second)
    assert found.rank == found.n_effects - 1
    assert "p, q with x, y / r, s with w, z" in found.sentences[0]
    assert "ascribed to 'donor'" in found.sentences[0]


def test_partial_confounding_is_measured():
    found = find_confounding(["a", "b"], {("p", "x"): 90, ("q", "y"): 90, ("p", "y"): 10, ("q", "x"): 10})
    # of two variables with two levels it is the squared correlation
    assert found.explained["a"] == pytest.approx(0.8**2)
    assert found.rank == 2
    assert "explain 64% of the variance of 'a'" in found.sentences[0]


def test_variables_of_one_level_explain_nothing():
    found = find_confounding(["a", "b"], {("p", "x"): 3, ("p", "y"): 4})
    assert found.explained == pytest.approx({"a": 0, "b": 0})
    assert (found.same, found.rank) == ((), 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100))
def test_explained_variance_is_that_of_least_squares(seed):
    rng = np.random.default_rng(seed)
    n, a = 400, rng.integers(0, 3, 400)
    b, cluster = (a + rng.integers(0, 2, n)) % 2, rng.integers(0, 2, n)
    x = rng.normal(size=(n, 4)) + rng.normal(size=(3, 4))[a] + rng.normal(size=(2, 4))[b] + 5 * cluster[:, None]
    found = explain_variance(x, cluster, [np.eye(3)[a], np.eye(2)[b]])
    added, total = np.zeros(2), 0.0
    for k in range(2):
        y = x[cluster == k]
        full = np.c_[np.ones(len(y)), np.eye(3)[a[cluster == k]], np.eye(2)[b[cluster == k]]]
        models = [full, full[:, [0, 4, 5]], full[:, :4]]
        rest = [np.square(y - m @ np.linalg.pinv(m) @ y).sum() for m in models]
        free = len(y) - np.linalg.matrix_rank(full)
        added += [
            rest[1] - rest[0] - (np.linalg.matrix_rank(full) - np.linalg.matrix_rank(models[1])) * rest[0] / free,
            rest[2] - rest[0] - (np.linalg.matrix_rank(full) - np.linalg.matrix_rank(models[2])) * rest[0] / free,
        ]
        total += np.square(y - y.mean(axis=0)).sum()
    assert found == pytest.approx(np.maximum(added / total, 0), abs=1e-9)


def test_few_cells_and_empty_clusters_are_no_error():
    assert explain_variance(np.zeros((1, 2)), np.zeros(1, int), [np.ones((1, 1))]) == [0.0]
    assert explain_variance(np.ones((3, 2)), np.array([0, 2, 2]), [np.eye(3)]) == [0.0]
