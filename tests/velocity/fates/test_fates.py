"""Chains against closed forms, and fates on flows whose branches and shares are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.datasets import simulated_dynamics
from muport.velocity.fates._absorption import absorption, stochastic
from muport.velocity.fates._fates import cell_kernel, committor, fate_probabilities, terminal_states


def walk(n: int, up: float) -> sp.csr_matrix:
    """A walk on 0..n-1, one up with probability `up`, one down else; both ends hold."""
    inner = np.arange(1, n - 1)
    row = np.concatenate([[0, n - 1], inner, inner])
    column = np.concatenate([[0, n - 1], inner + 1, inner - 1])
    value = np.concatenate([[1, 1], np.full(n - 2, up), np.full(n - 2, 1 - up)])
    return sp.csr_matrix((value, (row, column)), shape=(n, n))


def ruin(n: int, up: float) -> np.ndarray:
    """Probability to reach n - 1 before 0 from each place (gambler's ruin)."""
    i = np.arange(n)
    if up == 0.5:
        return i / (n - 1)
    ratio = (1 - up) / up
    return (1 - ratio**i) / (1 - ratio ** (n - 1))


def flow(kind: str, seed: int = 0, **kwargs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    data = simulated_dynamics(kind, random_state=seed, **kwargs)
    return data.obsm["X_pca"], data.obsm["velocity"], data.obs["time"].to_numpy(), data.obs["branch"].to_numpy(str)


def forked(share: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A path that forks at t = .4 into a branch of `share` of the cells and another, in 20 dimensions."""
    rng = np.random.default_rng(seed)
    time, side = rng.random(n), np.where(rng.random(n) < share, 1.0, -1.0)
    late = np.maximum(time - 0.4, 0)
    x, v = rng.normal(0, 0.25, (n, 20)), np.zeros((n, 20))
    x[:, 0] += 10 * time
    x[:, 1] += 10 * side * late
    v[:, 0] = 10
    v[:, 1] = np.where(time > 0.4, 10 * side, 0)
    return x, v, time, np.where(time < 0.4, "trunk", np.where(side > 0, "A", "B"))


def late_cells(time: np.ndarray, branch: np.ndarray, names: list[str]) -> np.ndarray:
    return np.select([(branch == name) & (time > 0.95) for name in names], range(len(names)), -1)


@pytest.mark.parametrize("up", [0.5, 0.55, 0.3])
@pytest.mark.parametrize("n", [5, 40])
def test_committor_is_the_gamblers_ruin(n: int, up: float) -> None:
    assert committor(walk(n, up), [0], [n - 1]) == pytest.approx(ruin(n, up), abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 60), up=st.floats(0.2, 0.8), lazy=st.floats(0, 0.9))
def test_waiting_changes_no_fate(n: int, up: float, lazy: float) -> None:
    chain = walk(n, up)
    found = absorption(lazy * sp.identity(n) + (1 - lazy) * chain, np.r_[0, np.full(n - 2, -1), 1])
    assert found.converged
    assert found.probabilities.sum(axis=1) == pytest.approx(1)
    assert found.probabilities[:, 1] == pytest.approx(ruin(n, 0.5 if abs(up - 0.5) < 1e-4 else up), abs=1e-3)


@pytest.mark.parametrize("up", [0.5, 0.6])
def test_iteration_meets_the_closed_form(up: float) -> None:
    """Beyond the sizes that are factorised, on a walk too long for an iteration without a preconditioner."""
    n = 4_500
    found = absorption(walk(n, up), np.r_[0, np.full(n - 2, -1), 1])
    assert found.converged
    assert found.residual <= 1e-8
    assert found.n_iter > 0
    assert found.probabilities[:, 1] == pytest.approx(ruin(n, up), abs=1e-4)


def test_reports_that_the_iteration_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muport.velocity.fates._absorption._DIRECT", 0)
    x, v, time, _ = flow("linear", n_cells=500)
    with pytest.warns(UserWarning, match="did not converge"):
        q = committor(cell_kernel(x, v), time < 0.1, time > 0.9, max_iter=1)
    assert np.isfinite(q).all()
    assert q.min() >= 0
    assert q.max() <= 1


def test_iteration_and_factorisation_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, v, time, branch = flow("bifurcation", n_cells=1500)
    kernel, ends = cell_kernel(x, v), late_cells(time, branch, ["A", "B"])
    direct = absorption(kernel, ends)
    monkeypatch.setattr("muport.velocity.fates._absorption._DIRECT", 0)
    iterated = absorption(kernel, ends)
    assert direct.n_iter == 0 < iterated.n_iter
    assert iterated.probabilities == pytest.approx(direct.probabilities, abs=1e-6)


def test_three_fates_against_powers_of_the_chain() -> None:
    rng = np.random.default_rng(0)
    chain = rng.dirichlet(np.ones(12), 12)
    chain[:3] = np.eye(12)[:3]
    far = np.linalg.matrix_power(chain, 10_000)[:, :3]
    codes = np.r_[2, 0, 1, np.full(9, -1)]
    assert fate_probabilities(chain, codes)[:, [2, 0, 1]] == pytest.approx(far, abs=1e-9)


def test_cells_caught_elsewhere_are_flagged_and_never_nan() -> None:
    """0 goes half to the end 2 and half to the trap 1; 3 only to the trap."""
    chain = np.array([[0, 0.5, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    found = absorption(chain, [-1, -1, 0, -1])
    assert found.reached.tolist() == [True, False, True, False]
    assert found.reach.tolist() == pytest.approx([0.5, 0, 1, 0])
    assert found.probabilities.ravel().tolist() == pytest.approx([1, 0, 1, 0])
    with pytest.warns(UserWarning, match="2 of 4 cells reach no terminal"):
        assert fate_probabilities(chain, [-1, -1, 0, -1]).ravel().tolist() == [1, 0, 1, 0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 60), d=st.integers(1, 5), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_kernel_rows_are_probabilities(seed: int, n: int, d: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(n, d)), scale * rng.normal(size=(n, d))
    x[: n // 3] = x[0]  # doubles
    kernel = cell_kernel(x, v, time=rng.random(n))
    assert kernel.shape == (n, n)
    assert (kernel.data >= 0).all()
    assert np.isfinite(kernel.data).all()
    assert np.asarray(kernel.sum(axis=1)).ravel() == pytest.approx(1)
    assert kernel.diagonal().max() == 0


def test_kernel_moves_with_the_flow_whatever_the_units() -> None:
    x, v, _, _ = flow("linear", n_cells=600)
    kernel = cell_kernel(x, v)
    moved = np.asarray(kernel @ x) - x
    along = (moved * v).sum(axis=1) / (np.linalg.norm(moved, axis=1) * np.linalg.norm(v, axis=1))
    assert np.median(along) > 0.5
    # powers of two, so that no rounding differs
    assert abs(cell_kernel(64 * x, v / 4) - kernel).max() < 1e-5
    assert abs(cell_kernel(x, v, step=1e-6) - kernel).max() > 0.1


def test_kernel_default_step_is_half_the_local_distance() -> None:
    x = np.arange(100.0)[:, None]
    # the 15th neighbour is 8 cells away in the middle
    assert abs(cell_kernel(x, np.full_like(x, 2.0)) - cell_kernel(x, np.full_like(x, 2.0), step=2.0)).max() < 1e-6


def test_balance_levels_the_columns_within_rows_of_one() -> None:
    x, v, time, _ = flow("cycle", noise=0.5, n_cells=1000)
    spread = [np.asarray(cell_kernel(x, v, balance=b).sum(axis=0)).ravel().std() for b in (0, 0.5, 0.95)]
    assert spread[0] > 1.5 * spread[1] > 2 * spread[2]


def test_time_orients_but_forbids_nothing() -> None:
    x, v, time, _ = flow("linear", n_cells=800)
    plain = cell_kernel(x, v, balance=0)
    oriented = cell_kernel(x, v, time=time, balance=0)

    def backward(kernel: sp.csr_matrix) -> float:
        entries = kernel.tocoo()
        return float(entries.data[time[entries.col] < time[entries.row]].sum())

    assert oriented.nnz == plain.nnz
    assert oriented.data.min() > 0
    assert backward(oriented) < 0.8 * backward(plain)
    assert abs(cell_kernel(x, v, time=np.zeros(800), balance=0) - plain).max() < 1e-12


def test_same_input_same_kernel() -> None:
    x, v, _, _ = flow("linear", n_cells=500)
    one, two = cell_kernel(x, v), cell_kernel(x, v)
    assert np.array_equal(one.data, two.data)
    assert np.array_equal(one.indices, two.indices)


@pytest.mark.parametrize("noise", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_bifurcation_is_calibrated(noise: float, seed: int) -> None:
    x, v, time, branch = flow("bifurcation", seed, noise=noise)
    q = fate_probabilities(cell_kernel(x, v), late_cells(time, branch, ["A", "B"]))
    assert q.sum(axis=1) == pytest.approx(1)
    assert q[time < 0.1].mean(axis=0) == pytest.approx(0.5, abs=0.05)
    for fate, name in enumerate("AB"):
        assert q[(branch == name) & (time > 0.6), fate].mean() > 0.98


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_unequal_branches_get_the_shares_of_the_data(share: float) -> None:
    x, v, time, branch = forked(share, 2000, 3)
    held = np.mean(branch[branch != "trunk"] == "A")
    q = fate_probabilities(cell_kernel(x, v), late_cells(time, branch, ["A", "B"]))
    assert q[time < 0.1, 0].mean() == pytest.approx(held, abs=0.05)
    for fate, name in enumerate("AB"):
        assert q[(branch == name) & (time > 0.6), fate].mean() > 0.98


@pytest.mark.parametrize(
    ("kind", "count"), [("linear", 1), ("bifurcation", 2), ("trifurcation", 3), ("converging", 1), ("cycle", 0)]
)
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_finds_where_the_flow_ends(kind: str, count: int, noise: float) -> None:
    x, v, time, branch = flow(kind, noise=noise)
    ends = terminal_states(cell_kernel(x, v))
    assert ends.max() + 1 == count
    if count:
        assert time[ends >= 0].min() > 0.75
        assert len({branch[ends == code][0] for code in range(count)}) == count
        assert all(len(set(branch[ends == code])) == 1 for code in range(count))


def test_ends_found_are_as_calibrated_as_labels() -> None:
    x, v, time, _ = flow("bifurcation", 2)
    kernel = cell_kernel(x, v)
    q = fate_probabilities(kernel, terminal_states(kernel))
    assert q[time < 0.1].mean(axis=0) == pytest.approx(0.5, abs=0.05)


def test_flow_that_rests_at_its_end_is_found() -> None:
    """Velocity that fades before the end, as cells mature, and noise as large as it."""
    x, v, time, _ = flow("bifurcation", 1)
    v = v * np.clip((1 - time) / 0.3, 0, 1)[:, None]
    v = v + np.random.default_rng(0).normal(size=v.shape) * np.linalg.norm(v, axis=1, keepdims=True) / np.sqrt(30)
    ends = terminal_states(cell_kernel(x, v))
    assert ends.max() == 1
    assert time[ends >= 0].min() > 0.7


def test_a_rare_end_needs_its_mass() -> None:
    x, v, _, branch = forked(0.95, 2000, 3)
    kernel = cell_kernel(x, v)
    assert set(branch[terminal_states(kernel) == 1]) == {"B"}
    assert terminal_states(kernel, min_mass=0.2).max() == 0


def test_flow_without_direction_has_no_end() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 10))
    assert (terminal_states(cell_kernel(x, rng.normal(size=x.shape))) == -1).all()


def test_a_set_that_leaks_joins_what_it_feeds() -> None:
    """The pair 0, 1 gives a fiftieth of its mass a step to the pair 2, 3, and gets less back by way of 4."""
    chain = np.zeros((200, 200))
    chain[np.arange(5, 200), 2 * (np.arange(5, 200) % 2)] = 1
    chain[0, [1, 2]] = 0.96, 0.04
    chain[1, 0] = 1
    chain[2, [3, 4]] = 0.996, 0.004
    chain[3, 2] = 1
    chain[4, 0] = 1
    ends = terminal_states(chain)
    assert ends[:5].tolist() == [0, 0, 0, 0, -1]
    assert (ends[5:] == -1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, v: (x, v[:-1]), "velocity has shape"),
        (lambda x, v: (x, 0 * v), "zero in every cell"),
        (lambda x, v: (x, v * np.nan), "velocity has a NaN"),
        (lambda x, v: (x[:1], v[:1]), "one cell"),
    ],
)
def test_kernel_refuses_bad_flows(change: Any, message: str) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=message):
        cell_kernel(*change(x, np.ones_like(x)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"k": 0}, "k=0 must"),
        ({"step": -1.0}, "step=-1.0 must"),
        ({"step": np.nan}, "step=nan must"),
        ({"balance": 1.0}, "balance=1.0 must"),
        ({"time": np.zeros(3)}, "time must be 20 finite numbers"),
        ({"time": np.full(20, np.nan)}, "time must be 20 finite numbers"),
    ],
)
def test_kernel_refuses_bad_options(option: dict[str, Any], message: str) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=message):
        cell_kernel(x, np.ones_like(x), **option)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (np.ones((2, 3)), "must be square"),
        (np.array([[0.5, 0.5], [0.5, 0.4]]), "row 1 sums to 0.9"),
        (np.array([[1.5, -0.5], [0, 1]]), "negative, NaN"),
        (np.array([[np.nan, 1], [0, 1]]), "negative, NaN"),
    ],
)
def test_refuses_what_is_no_chain(chain: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stochastic(chain)


@pytest.mark.parametrize(
    ("terminal", "error", "message"),
    [
        ([-1, -1, -1], ValueError, "holds no terminal cell"),
        ([0, -1], ValueError, "kernel has 3 cells"),
        ([0, 2, -1], ValueError, "1 has none"),
        (["a", "b", "c"], TypeError, "integer codes"),
        ([0.0, -1.0, 1.0], TypeError, "integer codes"),
    ],
)
def test_refuses_bad_terminals(terminal: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fate_probabilities(np.eye(3), terminal)


@pytest.mark.parametrize(
    ("source", "sink", "message"),
    [
        ([], [1], "source holds no cell"),
        ([0], [3], "between 0 and 2"),
        ([0], [0], "share 1 cells"),
        ([True, False], [2], r"source has shape \(2,\)"),
        ([0.5], [1], "booleans, or positions"),
    ],
)
def test_refuses_bad_sources(source: list[Any], sink: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        committor(np.eye(3), source, sink)


def test_refuses_a_share_that_is_none() -> None:
    with pytest.raises(ValueError, match="min_mass=2 must"):
        terminal_states(np.eye(3), min_mass=2)


def test_the_callers_matrix_is_left_alone() -> None:
    chain = sp.csr_matrix(np.array([[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]]))
    chain.data[0] = 0.5
    before = chain.copy()
    stored = sp.csr_matrix((np.array([0.0, 1.0, 1.0]), [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    fate_probabilities(chain, [-1, 0, 1])
    fate_probabilities(stored, [-1, 0])
    assert (chain != before).nnz == 0
    assert stored.nnz == 3
