"""What pairs of patients move, stored for every use, against sums over components and plans computed again."""

from __future__ import annotations

import numpy as np
import pytest

from muport.gmm.metric._component_plans import plan_components
from muport.gmm.metric._pair_scatters import CohortPlans, PairScatters
from muport.gmm.metric._reference_states import fit_reference
from muport.gmm.mixtures._mixtures import Mixtures

P, K, D = 6, 3, 4


def cohort(seed: int = 0, far: float = 0.0) -> Mixtures:
    rng = np.random.default_rng(seed)
    factor = np.eye(D) + 0.3 * rng.normal(size=(P, K, D, D))
    means = 3 * rng.normal(size=(P, K, D)) + far
    return Mixtures(rng.dirichlet(np.full(K, 3.0), P), means, factor @ factor.swapaxes(2, 3), "full", 0.0)


def roots(mix: Mixtures) -> np.ndarray:
    values, vectors = np.linalg.eigh(mix.covariances)
    return vectors * np.sqrt(values)[..., None, :] @ vectors.swapaxes(2, 3)


def moved(mix: Mixtures, plan: np.ndarray, i: int, j: int, white: np.ndarray) -> np.ndarray:
    """A_ij by its definition."""
    feature = white @ np.concatenate([mix.means[..., None], roots(mix)], axis=3)
    gap = feature[i][:, None] - feature[j][None]
    return np.einsum("kl,kldc,klec->de", plan[i, j], gap, gap)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("far", [0.0, 1e4])
def test_sums_and_traces_are_those_of_the_pairs(monkeypatch: pytest.MonkeyPatch, kept: bool, far: float) -> None:
    """Also where patients lie far from 0, and where there are too many pairs to keep."""
    if not kept:
        monkeypatch.setattr("muport.gmm.metric._pair_scatters._MAX_STORED", 1)
    mix = cohort(1, far)
    plans, _ = plan_components(mix, bures=True)
    rng = np.random.default_rng(2)
    root = np.linalg.cholesky(fit_reference(mix).within)
    pairs = PairScatters(plans, root)
    white = np.linalg.inv(root)
    each = np.array([[moved(mix, plans.plan, i, j, white) for j in range(P)] for i in range(P)])
    weights = rng.uniform(size=(2, P, P))
    weights = weights + weights.swapaxes(1, 2)
    tol = 1e-9 if not far else 1e-6
    found = pairs.scatters(weights)
    np.testing.assert_allclose(found, np.einsum("nij,ijde->nde", weights, each), atol=tol)
    np.testing.assert_array_equal(found, found.swapaxes(1, 2))
    factor = rng.normal(size=(3, 2, D))
    grams = factor.swapaxes(1, 2) @ factor
    squared = pairs.squared(grams)
    np.testing.assert_allclose(squared, np.einsum("nde,ijde->nij", grams, each), atol=tol)
    np.testing.assert_array_equal(squared.diagonal(axis1=1, axis2=2), 0)
    # the same as of the plans themselves
    np.testing.assert_allclose(squared[0], plans.squared(factor[0] @ white), atol=100 * tol)


@pytest.mark.parametrize("offset", [False, True])
def test_plans_are_computed_once(offset: bool) -> None:
    mix = cohort(3)
    cohort_plans = CohortPlans(mix)
    plans, scale = cohort_plans.plans(offset, 0.5)
    seen = cohort_plans.reference.remove_offsets(mix) if offset else mix
    wanted, price = plan_components(seen, tau=0.5, bures=True)
    np.testing.assert_array_equal(plans.plan, wanted.plan)
    np.testing.assert_array_equal(plans.a, wanted.a)
    assert scale == price
    assert cohort_plans.plans(offset, 0.5)[0] is plans
    assert cohort_plans.scatters(offset, 0.5, True) is cohort_plans.scatters(offset, 0.5, True)
    grams = np.eye(D)[None]
    means, whole = (cohort_plans.scatters(offset, 0.5, bures).squared(grams)[0] for bures in (False, True))
    assert (means < whole)[np.triu_indices(P, 1)].all()


def test_mixtures_alike_are_at_no_distance() -> None:
    one = cohort(4, 1e3).subset(0)
    same = Mixtures.stack([one, one])
    plans, _ = plan_components(same, bures=True)
    assert PairScatters(plans, np.eye(D)).squared(np.eye(D)[None]).max() < 1e-8
