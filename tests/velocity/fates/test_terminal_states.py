"""Terminal states of flows whose ends are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from muport.velocity.fates._fate_probabilities import fate_probabilities
from muport.velocity.fates._terminal_states import terminal_states
from muport.velocity.fates._transition_matrix import cell_kernel


@pytest.mark.parametrize(
    ("kind", "count"), [("linear", 1), ("bifurcation", 2), ("trifurcation", 3), ("converging", 1), ("cycle", 0)]
)
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_finds_where_the_flow_ends(chains: Any, kind: str, count: int, noise: float) -> None:
    x, v, time, branch = chains.flow(kind, noise=noise)
    ends = terminal_states(cell_kernel(x, v))
    assert ends.max() + 1 == count
    if count:
        assert time[ends >= 0].min() > 0.75
        assert len({branch[ends == code][0] for code in range(count)}) == count
        assert all(len(set(branch[ends == code])) == 1 for code in range(count))


def test_ends_found_are_as_calibrated_as_labels(chains: Any) -> None:
    x, v, time, _ = chains.flow("bifurcation", 2)
    kernel = cell_kernel(x, v)
    q = fate_probabilities(kernel, terminal_states(kernel))
    assert q[time < 0.1].mean(axis=0) == pytest.approx(0.5, abs=0.05)


def test_flow_that_rests_at_its_end_is_found(chains: Any) -> None:
    """Velocity that fades before the end, as cells mature, and noise as large as it."""
    x, v, time, _ = chains.flow("bifurcation", 1)
    v = v * np.clip((1 - time) / 0.3, 0, 1)[:, None]
    v = v + np.random.default_rng(0).normal(size=v.shape) * np.linalg.norm(v, axis=1, keepdims=True) / np.sqrt(30)
    ends = terminal_states(cell_kernel(x, v))
    assert ends.max() == 1
    assert time[ends >= 0].min() > 0.7


def test_a_rare_end_needs_its_mass(chains: Any) -> None:
    x, v, _, branch = chains.forked(0.95, 2000, 3)
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


def test_refuses_a_share_that_is_none() -> None:
    with pytest.raises(ValueError, match="min_mass=2 must"):
        terminal_states(np.eye(3), min_mass=2)


def test_an_end_that_leaks_into_another_one_is_kept() -> None:
    """A walk on a line with two ends: the first loses its mass slowly, and has none in the limit."""
    n, first, top, second = 80, 20, 30, 60
    toward = np.where(np.arange(n) < top, np.sign(first - np.arange(n)), np.sign(second - np.arange(n)))
    right = np.where(np.arange(n) < top, 0.5 + 0.1 * toward, 0.5 + 0.3 * toward)
    right[[0, -1]] = 1, 0
    kernel = np.diag(right[:-1], 1) + np.diag(1 - right[1:], -1)
    limit = np.linalg.matrix_power((kernel + np.eye(n)) / 2, 20_000).mean(axis=0)
    assert limit[:top].sum() < 0.01
    ends = terminal_states(kernel)
    assert ends.max() == 1
    assert {int(ends[first]), int(ends[second])} == {0, 1}
