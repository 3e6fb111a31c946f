"""Held-out transport: 1 for no flow, near 0 for the true one, and a choice without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from muport.velocity._select import choose_windows, push_scores


class Constant(torch.nn.Module):
    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.speed * torch.eye(x.shape[1])[0].expand_as(x)


def moving(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    time = rng.random(n)
    return (6 * time[:, None] * np.eye(3)[0] + 0.2 * rng.normal(size=(n, 3))).astype(np.float32), time


@pytest.mark.parametrize("days", [None, (1.0, 3.0)])
def test_scores_of_known_fields(days):
    x, time = moving(600)
    if days is not None:
        time = np.repeat(days, 300)
        x[:, 0] += 3 * time - x[:, 0] * 0.9
    speed = 6.0 if days is None else np.diff([x[time == day, 0].mean() for day in days])[0] / 2
    still, true, half = (push_scores(Constant(v), x, time).mean() for v in (0.0, speed, speed / 2))
    assert still == pytest.approx(1, abs=1e-6)
    assert true < 0.1
    assert true < half < still


def test_the_choice_is_the_lowest_score_and_repeats():
    x, time = moving(300)
    grid = {"fraction": (0.1, 0.45), "reg_scale": (0.5,), "tau": (0.9, 1.0), "n_steps": 40}
    choice, again = (choose_windows(x, time, **grid) for _ in range(2))
    assert len(choice.table) == 4
    row = choice.table.loc[choice.table["score"].idxmin()]
    assert choice.best == {name: row[name] for name in ("fraction", "reg_scale", "tau")}
    assert choice.table.equals(again.table)
    assert row["score"] < 0.2


def test_nothing_to_try():
    with pytest.raises(ValueError, match="tau is empty"):
        choose_windows(*moving(100), tau=())
