"""The annealed iterations: theta falls to 0, and fitted centers stay."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.prototypes._prototypes import Prototypes
from muport.integration.shared_centers._coupling import initialize_coupling
from muport.integration.shared_centers._displacement import CenterSummary
from muport.integration.shared_centers._transport import TransportProblem, anneal_theta, fit_transport, weighted_rms


def test_theta_falls_linearly_to_zero():
    assert anneal_theta(0, Hyperparameters(), FitOptions(max_iter=1)) == 0
    assert [anneal_theta(i, Hyperparameters(), FitOptions(max_iter=3)) for i in range(3)] == [2, 1, 0]
    assert [anneal_theta(i, Hyperparameters(), FitOptions()) for i in (4, 5, 14)] == [pytest.approx(0.4), 0, 0]


def test_root_mean_square_is_weighted_by_mass():
    displacement = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    assert weighted_rms(displacement, np.array([1.0, 3.0], np.float32)) == pytest.approx(np.sqrt((25 + 3) / 4))


def test_fitted_centers_stay():
    rng = np.random.default_rng(0)
    position = rng.normal(size=(20, 3)).astype(np.float32)
    prototypes = Prototypes(position, np.ones(20, np.float32), np.array([0, 20]))
    initial = initialize_coupling(prototypes, 200, 1.0, 0)
    k = len(initial.centers)
    target, mean_proportions = rng.normal(size=(k, 3)).astype(np.float32), np.full(k, 1 / k, np.float32)
    zeros = np.zeros((1, k), np.float32)
    fitted = CenterSummary(zeros, np.zeros((1, k, 3), np.float32), target, mean_proportions, of_new_groups=True)
    moments = np.array([np.square(position).sum()], float)
    problem = TransportProblem(prototypes, moments, Hyperparameters(), FitOptions(max_iter=3), fitted_centers=fitted)
    transport = fit_transport(problem, initial)
    assert transport.coupling.centers is initial.centers
    assert transport.coupling.weight is initial.weight
    assert transport.centers.target is target
    assert transport.translation.deviation.shape == (20, 3)
    assert transport.translation.of_group.shape == (1, 3)
    assert len(transport.history) == 3
