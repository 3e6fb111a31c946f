"""Labels in the transport."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.prototypes._prototypes import Prototypes
from muport.integration.shared_centers._coupling import Coupling
from muport.integration.shared_centers._label_penalty import average_over_prototypes, compute_label_penalty


def test_types_of_prototypes_are_means():
    p = np.random.default_rng(0).dirichlet(np.ones(3), 8).astype(np.float32)
    nearest = np.array([0, 0, 0, 0, 1, 1, 1, 3])
    found = average_over_prototypes(p, nearest, 4)
    for prototype in (0, 1, 3):
        assert found[prototype] == pytest.approx(p[nearest == prototype].mean(0))
    assert not found[2].any()


def setting() -> tuple[np.ndarray, Prototypes, Coupling]:
    """Two groups of two prototypes, one of each label; the last is unlabelled. A third centre has no labelled cells."""
    known = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
    plan = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    prototypes = Prototypes(np.zeros((4, 2), np.float32), np.full(4, 5, np.float32), np.array([0, 2, 4]))
    empty = np.zeros((2, 3), np.float32)
    return known, prototypes, Coupling(np.zeros((3, 2), np.float32), plan, np.ones(3, np.float32) / 3, empty, True)


def test_only_known_disagreement_costs():
    known, prototypes, coupling = setting()
    found = compute_label_penalty(known, prototypes, coupling, 1.0)
    assert np.allclose(found, [[0, 2, 0], [2, 0, 0], [0, 2, 0], [0, 0, 0]])


def test_it_is_proportional_to_supervision_and_nothing_at_zero():
    known, prototypes, coupling = setting()
    full = compute_label_penalty(known, prototypes, coupling, 1.0)
    assert np.allclose(compute_label_penalty(known, prototypes, coupling, 0.25), full / 4)
    assert not compute_label_penalty(known, prototypes, coupling, 0.0).any()


def test_mixed_prototypes_pay_the_chance_of_disagreement():
    known, prototypes, coupling = setting()
    known[0] = [0.5, 0.25]
    plan = coupling.plan.copy()
    plan[0] = [0.5, 0.5, 0]
    mixed = Coupling(coupling.centers, plan, coupling.weight, coupling.log_scale, True)
    found = compute_label_penalty(known, prototypes, mixed, 1.0)
    held = np.zeros((3, 2))
    for p in range(4):
        held += 0.5 * plan[p][:, None] * known[p]
    part = held[:2] / held[:2].sum(1, keepdims=True)
    for p in range(4):
        assert np.allclose(found[p, :2], 2 * (known[p].sum() - known[p] @ part.T), atol=1e-5)
    assert found.min() >= 0
