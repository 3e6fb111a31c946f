"""Chains whose absorption probabilities are known, and flows whose branches are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from muport.datasets import simulated_dynamics

Flow = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Chains:
    """Chains and flows, by the names of what they do."""

    @staticmethod
    def walk(n: int, up: float) -> sp.csr_matrix:
        """A walk on 0..n-1, one up with probability `up`, one down else; both ends hold."""
        inner = np.arange(1, n - 1)
        row = np.concatenate([[0, n - 1], inner, inner])
        column = np.concatenate([[0, n - 1], inner + 1, inner - 1])
        value = np.concatenate([[1, 1], np.full(n - 2, up), np.full(n - 2, 1 - up)])
        return sp.csr_matrix((value, (row, column)), shape=(n, n))

    @staticmethod
    def ruin(n: int, up: float) -> np.ndarray:
        """Probability to reach n - 1 before 0 from each place (gambler's ruin)."""
        i = np.arange(n)
        if up == 0.5:
            return i / (n - 1)
        ratio = (1 - up) / up
        return (1 - ratio**i) / (1 - ratio ** (n - 1))

    @staticmethod
    def flow(kind: str, seed: int = 0, **kwargs: Any) -> Flow:
        data = simulated_dynamics(kind, random_state=seed, **kwargs)
        return data.obsm["X_pca"], data.obsm["velocity"], data.obs["time"].to_numpy(), data.obs["branch"].to_numpy(str)

    @staticmethod
    def forked(share: float, n: int, seed: int) -> Flow:
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

    @staticmethod
    def late_cells(time: np.ndarray, branch: np.ndarray, names: list[str]) -> np.ndarray:
        return np.select([(branch == name) & (time > 0.95) for name in names], range(len(names)), -1)


@pytest.fixture(scope="session")
def chains() -> type[Chains]:
    return Chains
