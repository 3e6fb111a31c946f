"""Macrostates on flows whose topology is known, and their parts against linear algebra."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.datasets import simulated_dynamics
from muport.velocity.fates import _macrostates
from muport.velocity.fates._macrostates import MetaStates, meta_states
from muport.velocity.fates._transition_matrix import cell_kernel

EXPECTED = {
    "linear": {"initial": 1, "transient": 1, "terminal": 1},
    "bifurcation": {"initial": 1, "branching": 1, "terminal": 2},
    "trifurcation": {"initial": 1, "branching": 1, "terminal": 3},
    "cycle": {"cycling": 4},
}


def flow(kind: str, seed: int = 0, **kwargs: Any) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray, np.ndarray]:
    data = simulated_dynamics(kind, random_state=seed, **kwargs)
    x = data.obsm["X_pca"]
    return x, cell_kernel(x, data.obsm["velocity"]), data.obs["time"].to_numpy(), data.obs["branch"].to_numpy(str)


def edges(m: int, *pairs: tuple[int, int]) -> np.ndarray:
    flux = np.zeros((m, m))
    for a, b in pairs:
        flux[a, b], flux[b, a] = 1, -1
    return flux / 10


@pytest.mark.parametrize("kind", list(EXPECTED))
@pytest.mark.parametrize(("noise", "seed"), [(0.1, 0), (0.25, 1), (0.5, 2)])
def test_roles_are_those_of_the_topology(kind: str, noise: float, seed: int) -> None:
    x, kernel, _, _ = flow(kind, seed, noise=noise)
    states = meta_states(kernel, x)
    assert Counter(states.roles) == EXPECTED[kind]


@pytest.mark.parametrize("noise", [0.1, 0.25])
def test_two_beginnings_and_one_end(noise: float) -> None:
    """Where branches meet, the stretch up to the end is one state or two: neither is a role of its own."""
    x, kernel, _, _ = flow("converging", noise=noise)
    roles = meta_states(kernel, x).roles
    assert roles[:3] == ("initial", "initial", "transient")
    assert roles[-1] == "terminal"
    assert len(roles) <= 5


@pytest.mark.parametrize("kind", ["linear", "bifurcation"])
def test_states_stand_in_the_order_of_time(kind: str) -> None:
    x, kernel, time, branch = flow(kind)
    states = meta_states(kernel, x)
    mean = states.membership.T @ time / states.membership.sum(axis=0)
    assert (np.diff(mean[:3]) > 0).all()
    main = states.membership.argmax(axis=1)
    if kind == "bifurcation":
        assert {max(Counter(branch[main == state]).items(), key=lambda kv: kv[1])[0] for state in (2, 3)} == {"A", "B"}
        assert np.mean(branch[(main == 0)] == "trunk") > 0.95


def test_mass_ends_in_the_branches_as_the_data() -> None:
    x, kernel, _, _ = flow("bifurcation")
    states = meta_states(kernel, x)
    assert states.stationary[:2].sum() < 0.01
    assert states.stationary[2:] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", ["bifurcation", "cycle"])
def test_parts_agree_with_their_definitions(kind: str) -> None:
    x, kernel, _, _ = flow(kind, n_cells=1200)
    states = meta_states(kernel, x)
    hard = np.eye(len(states.roles))[states.membership.argmax(axis=1)]
    joint = hard.T @ kernel.toarray() @ hard / len(x)
    assert states.membership.sum(axis=1) == pytest.approx(1)
    assert states.membership.min() >= 0
    assert states.mass == pytest.approx(hard.mean(axis=0))
    assert states.flux == pytest.approx(joint - joint.T, abs=1e-12)
    assert states.transition == pytest.approx(np.linalg.pinv(hard.T @ hard) @ hard.T @ kernel.toarray() @ hard)
    assert states.stationary @ states.transition == pytest.approx(states.stationary, abs=1e-9)
    assert states.vamp2 == pytest.approx(np.square(states.singular_values[: len(states.roles)]).sum())
    assert 1 < states.vamp2 <= len(states.roles)


def test_a_cycle_flows_around() -> None:
    """Every state gives what it gets, to one neighbour from the other."""
    x, kernel, _, _ = flow("cycle")
    states = meta_states(kernel, x)
    assert np.abs(states.flux.sum(axis=1)).max() < 0.25 * np.abs(states.flux).max()
    assert ((states.flux > 0.2 * states.flux.max()).sum(axis=1) == 1).all()
    assert states.stationary == pytest.approx(0.25, abs=0.05)


def test_cycle_with_a_tail() -> None:
    """A path that runs into a circle: only the circle cycles."""
    rng = np.random.default_rng(0)
    n = 3000
    t = rng.random(n)
    on = t > 0.4
    angle = np.where(on, (t - 0.4) / 0.6 * 2 * np.pi, 0) - np.pi / 2
    x, v = rng.normal(0, 0.2, (n, 10)), np.zeros((n, 10))
    x[:, 0] += np.where(on, 3 * np.cos(angle), 20 * (t - 0.4))
    x[:, 1] += np.where(on, 3 * np.sin(angle), -3)
    v[:, 0] = np.where(on, -30 * np.sin(angle), 20)
    v[:, 1] = np.where(on, 30 * np.cos(angle), 0)
    roles = meta_states(cell_kernel(x, v), x, 6).roles
    assert roles[0] == "initial"
    assert roles.count("cycling") >= 3
    assert "terminal" not in roles


@pytest.mark.parametrize(
    ("flux", "roles"),
    [
        (edges(3, (0, 1), (1, 2)), "initial transient terminal"),
        (edges(4, (0, 1), (1, 2), (1, 3)), "initial branching terminal terminal"),
        (edges(4, (0, 1), (1, 2), (1, 3), (2, 3)), "initial transient transient terminal"),
        (edges(3, (0, 1), (1, 2), (2, 0)), "cycling cycling cycling"),
        (edges(4, (0, 1), (1, 2), (2, 3), (3, 1)), "initial cycling cycling cycling"),
        (edges(3, (0, 2), (1, 2)), "initial initial terminal"),
        (edges(3, (0, 1)), "initial terminal terminal"),
        (edges(3, (0, 1), (0, 2)), "initial terminal terminal"),
    ],
)
def test_roles_of_small_graphs(flux: np.ndarray, roles: str) -> None:
    m = len(flux)
    assert _macrostates._assign_roles(flux, np.full(m, 1 / m)) == tuple(roles.split())
    order = np.random.default_rng(0).permutation(m)
    turned = _macrostates._assign_roles(flux[np.ix_(order, order)], np.full(m, 1 / m))
    assert turned == tuple(np.array(roles.split())[order])


def test_noise_makes_no_role() -> None:
    flux = edges(4, (0, 1), (1, 2), (1, 3))
    flux[3, 0] += 0.003
    flux[0, 3] -= 0.003
    assert _macrostates._assign_roles(flux, np.full(4, 0.25)) == ("initial", "branching", "terminal", "terminal")


@pytest.mark.parametrize("n_states", [2, 3, 6])
def test_as_many_states_as_asked(n_states: int) -> None:
    x, kernel, _, _ = flow("bifurcation", n_cells=1000)
    states = meta_states(kernel, x, n_states)
    assert states.membership.shape == (1000, n_states)
    assert states.transition.shape == states.flux.shape == (n_states, n_states)


def test_separate_parts_are_separate_states() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 5))
    x[:, 0] += np.repeat([0, 100, 200], 300)
    states = meta_states(cell_kernel(x, np.ones_like(x)), x, 3)
    main = states.membership.argmax(axis=1).reshape(3, 300)
    assert [len(set(part)) for part in main] == [1, 1, 1]
    assert states.transition == pytest.approx(np.eye(3))
    assert states.stationary == pytest.approx(1 / 3)
    assert states.roles == ("terminal",) * 3


@settings(max_examples=15, deadline=None)
@given(n=st.integers(4, 80), d=st.integers(1, 4), seed=st.integers(0, 100))
def test_never_nan(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    x[: n // 4] = x[0]
    states = meta_states(cell_kernel(x, rng.normal(size=(n, d)), k=5), x)
    for name in ("membership", "transition", "stationary", "mass", "flux", "singular_values"):
        assert np.isfinite(getattr(states, name)).all(), name
    assert states.transition.sum(axis=1) == pytest.approx(1)
    assert states.stationary.sum() == pytest.approx(1)


def test_same_seed_same_states() -> None:
    x, kernel, _, _ = flow("bifurcation", n_cells=800)

    def arrays(states: MetaStates) -> bytes:
        return states.membership.tobytes() + states.flux.tobytes() + states.stationary.tobytes()

    assert arrays(meta_states(kernel, x)) == arrays(meta_states(kernel, x))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_states": 1}, "n_states=1 is out of range"),
        ({"n_states": 60}, "out of range"),
        ({"n_microstates": 2}, "2 microstates are out of range"),
        ({"n_microstates": 51}, "51 microstates are out of range"),
    ],
)
def test_refuses_numbers_out_of_range(option: dict[str, int], message: str) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match=message):
        meta_states(cell_kernel(x, np.ones_like(x)), x, **option)


def test_refuses_cells_that_do_not_fit() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="kernel has 50 cells, but x has 49"):
        meta_states(cell_kernel(x, np.ones_like(x)), x[1:])
