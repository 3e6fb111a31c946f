"""What the model keeps: sample_landmarks, and answers that do not depend on blocks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from muport.velocity import _fitted_state as _state
from muport.velocity._fitted_state import (
    Landmarks,
    check_landmarks,
    check_query,
    estimate_time,
    sample_landmarks,
    speed_and_uncertainty,
)
from muport.velocity.estimation._field import Field, evaluate


def cells(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)).astype(np.float32), rng.random(n), rng.integers(-1, 2, n)


@pytest.fixture
def field() -> Field:
    import torch

    made = Field(4, 8, 3, True, 5)
    generator = torch.Generator().manual_seed(0)
    made.reset(generator)
    with torch.no_grad():
        for value in made.state_dict().values():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return made.eval().requires_grad_(False)


def test_few_cells_are_all_landmarks():
    x, time, label = cells(50)
    known = sample_landmarks(x, time, label, ("A", "B"))
    assert np.array_equal(known.x, x)
    assert np.array_equal(known.time, time)
    assert np.array_equal(known.label, label)


def test_many_cells_are_sampled_in_their_order(monkeypatch):
    monkeypatch.setattr(_state, "_MAX_LANDMARKS", 30)
    x, time, label = cells(200)
    x[:, 0] = np.arange(200)
    known, again, other = (sample_landmarks(x, time, label, (), seed) for seed in (1, 1, 2))
    row = known.x[:, 0].astype(int)
    assert len(np.unique(row)) == 30
    assert (np.diff(row) > 0).all()
    assert np.array_equal(known.time, time[row])
    assert np.array_equal(known.label, label[row])
    assert np.array_equal(known.x, again.x)
    assert not np.array_equal(known.x, other.x)


def test_time_is_the_median_of_the_nearest():
    x, time, label = cells(100)
    known = Landmarks(x, time, label, ())
    near = np.linalg.norm(x[:10, None] - x[None], axis=2).argsort(axis=1)[:, :7]
    assert np.allclose(estimate_time(x[:10], known, k=7), np.median(time[near], axis=1))
    assert estimate_time(x[:3], Landmarks(x[:2], time[:2], label[:2], ())).shape == (3,)


def test_noise_is_the_spread_of_the_members_and_the_misfit(field):
    import torch

    x, time, _ = cells(20)
    members = field.members(torch.from_numpy(x), torch.from_numpy(time.astype(np.float32))).numpy()
    length, spread = speed_and_uncertainty(field, x, time)
    square = members.var(axis=0, ddof=1).sum(axis=1) + float(field.misfit) ** 2
    assert field.misfit > 0
    assert np.allclose(spread, np.sqrt(square), rtol=1e-4)
    assert np.allclose(length, np.linalg.norm(evaluate(field, x, time), axis=1), rtol=1e-5)


def test_one_time_serves_all_places(field):
    x, time, _ = cells(30)

    def query(when=None):
        return evaluate(field, *check_query(x, when, x.shape[1], float(np.median(time))))

    assert np.array_equal(query(0.3), query(np.full(30, 0.3)))
    assert np.array_equal(query(), query(np.median(time)))


@pytest.mark.parametrize(("positions", "time", "match"), [
    (np.zeros((3, 5)), 0.1, "5 coordinates.*4"),
    (np.zeros((3, 4)), [0.1, 0.2], "pseudotime_values.*2"),
    (np.zeros((3, 4)), np.nan, "pseudotime_values.*NaN"),
    (np.full((3, 4), np.nan), 0.1, "positions.*NaN"),
], ids=["width", "times", "time", "place"])  # fmt: skip
def test_bad_queries_are_named(positions, time, match):
    with pytest.raises(ValueError, match=match):
        check_query(positions, time, 4, 0.5)


@pytest.mark.parametrize("change", ["coordinate", "time", "order", "fewer"])
def test_cells_of_another_fit_are_refused(change):
    x, time, label = cells(60)
    known, kept, swapped = sample_landmarks(x, time, label, ()), np.arange(60), [1, 0, *range(2, 60)]
    moved = x + np.eye(4, dtype=np.float32)[3]
    others = {
        "coordinate": (moved, time, kept), "time": (x, time + 1, kept), "order": (x, time[swapped], kept),
        "fewer": (x, time, kept[1:]),
    }[change]  # fmt: skip
    check_landmarks(rows_of(x[::-1], time[::-1]), known)
    with pytest.raises(ValueError, match="of 60 cells of the fit .*call train"):
        check_landmarks(rows_of(others[0][others[2]], others[1][others[2]]), known)


def rows_of(x: np.ndarray, time: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(x=x, time=time, cell=np.arange(len(x)))
