"""Means and variances of states against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muport.gmm.metric._reference_states import Reference
from muport.gmm.metric._state_moments import state_means, state_variances
from muport.gmm.mixtures._mixtures import Mixtures

P, K, D = 6, 3, 2
MANY = np.full(P, 1e9)  # with so many cells the added ones do not count


@pytest.fixture
def reference() -> Reference:
    return Reference(20.0 * np.arange(K * D).reshape(K, D), np.array([[4.0, 0.0], [0.0, 1.0]]))


@pytest.fixture
def mixtures(reference: Reference) -> Mixtures:
    rng = np.random.default_rng(0)
    means = reference.means + rng.normal(size=(P, K, D))
    covariances = np.broadcast_to(reference.within, (P, K, D, D)).copy()
    return Mixtures(rng.dirichlet(np.full(K, 5.0), P), means, covariances, "full", 0.0)


def test_means_are_shifts_from_the_states_in_units_of_their_spread(mixtures: Mixtures, reference: Reference) -> None:
    shift = (mixtures.means - reference.means) / np.array([2.0, 1.0])
    expected = (shift - shift.mean(axis=1, keepdims=True)).reshape(P, -1)
    np.testing.assert_allclose(state_means(mixtures, MANY, reference), expected, atol=1e-6)


def test_a_shift_of_all_cells_of_a_patient_changes_no_mean(mixtures: Mixtures, reference: Reference) -> None:
    moved = replace(mixtures, means=mixtures.means + np.arange(P)[:, None, None] / 10)
    np.testing.assert_allclose(
        state_means(moved, MANY, reference), state_means(mixtures, MANY, reference), atol=1e-6
    )  # fmt: skip


def test_a_state_without_cells_is_where_the_other_patients_have_it(mixtures: Mixtures, reference: Reference) -> None:
    weights = mixtures.weights.copy()
    weights[0, 1] = 0
    without = replace(mixtures, weights=weights / weights.sum(1, keepdims=True))
    means = state_means(without, np.full(P, 100.0), reference).reshape(P, K, D)
    assert np.isfinite(means).all()
    others = means[0, [0, 2]] - means[0, 1]
    shift = (mixtures.means[0, [0, 2]] - reference.means[[0, 2]]) / np.array([2.0, 1.0])
    np.testing.assert_allclose(others, shift, rtol=0.1)


def test_variances_are_those_within_and_between_the_components_of_a_state(reference: Reference) -> None:
    one = Reference(np.zeros((1, D)), reference.within)
    means = np.array([[[-3.0, 0.0], [3.0, 0.0]]])
    mix = Mixtures(np.array([[0.5, 0.5]]), means, np.broadcast_to(np.diag([4.0, 9.0]), (1, 2, D, D)), "full", 0.0)
    found = state_variances(mix, np.array([1e9]), one)
    np.testing.assert_allclose(np.exp(found), [[(4 + 9) / 4, 9.0]], rtol=1e-6)


def test_a_state_without_cells_has_the_mean_variance(mixtures: Mixtures, reference: Reference) -> None:
    weights = np.tile([0.0, 0.5, 0.5], (P, 1))
    wide = replace(mixtures, weights=weights, covariances=9 * mixtures.full())
    found = state_variances(wide, np.full(P, 100.0), reference).reshape(P, K, D)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-6)
    assert (found[:, 1:] > 1).all()
