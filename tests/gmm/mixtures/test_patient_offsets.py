"""Offsets of patients: recovered where there are some, none where only the composition differs."""

from __future__ import annotations

import numpy as np
import pytest

from muport.gmm.mixtures._patient_offsets import SharedStates, fit_shared_states

P, N, D = 8, 60, 4
CENTERS = 8.0 * np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
STATES = SharedStates(np.full(3, 1 / 3), CENTERS, np.eye(D), 1.0)


def draw(offset: float, seed: int = 0, concentration: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of patients with very different compositions, their patients, and the offsets."""
    rng = np.random.default_rng(seed)
    state = np.concatenate([rng.choice(3, N, p=rng.dirichlet(np.full(3, concentration))) for _ in range(P)])
    sample, shift = np.repeat(np.arange(P), N), offset * rng.normal(size=(P, D))
    return CENTERS[state] + shift[sample] + rng.normal(size=(P * N, D)), sample, shift


@pytest.mark.parametrize("seed", range(3))
def test_offsets_are_recovered_whatever_the_composition(seed: int) -> None:
    x, sample, shift = draw(1.0, seed)
    states = fit_shared_states(x, sample)
    assert states is not None
    found = states.offsets(x, sample)
    away = found - shift
    # a mean of 60 cells has the error .13
    assert np.abs(away - np.median(away, axis=0)).max() < 0.6
    mean = np.stack([x[sample == i].mean(axis=0) for i in range(P)])
    assert np.abs(mean - mean.mean(axis=0) - shift + shift.mean(axis=0)).max() > 2


@pytest.mark.parametrize("seed", range(3))
def test_a_difference_in_composition_is_no_offset(seed: int) -> None:
    x, sample, _ = draw(0.0, seed)
    assert fit_shared_states(x, sample) is None


def test_without_variation_there_is_no_offset() -> None:
    assert fit_shared_states(draw(0.0)[0], np.zeros(P * N, np.int64)) is None
    assert fit_shared_states(np.ones((20, 3)), np.repeat([0, 1], 10)) is None
    assert fit_shared_states(np.ones((2, 3)), np.arange(2)) is None


def test_a_new_patient_of_one_state_has_no_offset() -> None:
    rng = np.random.default_rng(0)
    cells = CENTERS[1] + rng.normal(size=(40, D))
    assert np.abs(STATES.offsets(cells, np.zeros(40, np.int64))).max() < 0.6


def test_a_rare_state_that_overlaps_moves_no_offset() -> None:
    """With the mean proportions in place of the patient's own, half of the cells would be taken for the rare state."""
    rng = np.random.default_rng(0)
    close = SharedStates(np.full(2, 0.5), np.array([[0.0, 0.0], [2.5, 0.0]]), np.eye(2), 1.0)
    cells = close.means[(rng.random(600) < 0.05).astype(int)] + rng.normal(size=(600, 2))
    assert np.abs(close.offsets(cells, np.zeros(600, np.int64))).max() < 0.2


def test_a_patient_far_from_all_states_is_recognized_from_its_mean() -> None:
    x, sample, _ = draw(0.0, concentration=20.0)
    far = x + 30.0 * np.eye(P, D)[sample]
    assert np.abs(STATES.offsets(far, sample)[:D] - 30.0 * np.eye(D)).max() < 1.0


def test_a_cell_of_weight_two_counts_twice() -> None:
    x, sample, _ = draw(1.0)
    twice = np.concatenate([np.arange(len(x)), np.flatnonzero(sample == 3)])
    weighted = STATES.offsets(x, sample, np.where(sample == 3, 2.0, 1.0))
    np.testing.assert_allclose(STATES.offsets(x[twice], sample[twice]), weighted, atol=1e-9)


def test_offsets_follow_the_cells() -> None:
    x, sample, _ = draw(1.0)
    moved = SharedStates(STATES.weights, CENTERS + 5.0, STATES.covariance, 1.0)
    np.testing.assert_allclose(moved.offsets(x + 5.0, sample), STATES.offsets(x, sample), atol=1e-8)


def test_wrong_states_are_refused() -> None:
    with pytest.raises(ValueError, match="do not sum to 1"):
        SharedStates(np.ones(3), CENTERS, np.eye(D), 1.0).check_consistency()
    with pytest.raises(np.linalg.LinAlgError):
        SharedStates(STATES.weights, CENTERS, -np.eye(D), 1.0).check_consistency()
