"""Stochastic paths against processes whose moments are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from muport.velocity.dynamics._paths import StopReason
from muport.velocity.dynamics._sde import simulate


def test_mean_and_variance_of_an_ornstein_uhlenbeck_process() -> None:
    """dx = -a x dt + sqrt(2 D) dW: mean x0 exp(-a t), variance D / a (1 - exp(-2 a t)); n = 20,000."""
    a, d, n = 1.5, 0.4, 20_000
    paths = simulate(lambda x, t: -a * x, np.full((n, 1), 2.0), 0.0, 1.0, n_steps=200, diffusion=d)
    for j in (50, 100, 200):
        t = j / 200
        mean, variance = 2 * np.exp(-a * t), d / a * (1 - np.exp(-2 * a * t))
        x = paths.x[:, j, 0].astype(float)
        assert abs(x.mean() - mean) < 4 * np.sqrt(variance / n) + 0.01  # the latter of the step: order 1
        assert abs(x.var() / variance - 1) < 4 * np.sqrt(2 / n) + 0.01


def test_diffusion_follows_the_speed() -> None:
    """Variance 2 D h |v| t around x0 + v t."""
    speed = torch.tensor([0.0, 1.0, 4.0]).repeat_interleave(4000)[:, None]
    paths = simulate(lambda x, t: speed, np.zeros((12_000, 1)), 0.0, 2.0, n_steps=10, diffusion=0.5, length_scale=0.1)
    ends = paths.ends.reshape(3, 4000)
    assert np.allclose(ends.mean(axis=1), [0, 2, 8], atol=0.05)
    assert np.allclose(ends.var(axis=1), [0, 0.2, 0.8], rtol=0.1)


def test_same_seed_same_paths_and_ends_change_no_other_noise() -> None:
    def run(seed: int, stop: Any = None) -> np.ndarray:
        return simulate(lambda x, t: -x, np.zeros((30, 2)), 0.0, 1.0, stop=stop, random_state=seed).x

    before = torch.random.get_rng_state()
    first = run(0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(first, run(0))
    assert not np.array_equal(first, run(1))
    cut = run(0, lambda x, t: torch.where(x[:, 0] > 0.3, StopReason.TARGET, 0))
    whole = (first[:, :, 0] <= 0.3).all(axis=1)
    assert 0 < whole.sum() < 30
    assert np.array_equal(cut[whole], first[whole])


def test_no_noise_is_euler() -> None:
    paths = simulate(lambda x, t: -x, np.ones((1, 1)), 0.0, 1.0, n_steps=10, diffusion=0.0)
    assert paths.ends[0, 0] == pytest.approx(0.9**10)


@pytest.mark.parametrize("change", [{"diffusion": -1.0}, {"diffusion": np.nan}, {"length_scale": 0.0}])
def test_bad_input_of_simulate(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        simulate(lambda x, t: x, np.ones((1, 1)), 0.0, 1.0, **change)
