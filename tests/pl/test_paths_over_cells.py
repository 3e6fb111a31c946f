"""Paths and windows are drawn where the cells are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import muport
from muport.pl._paths_over_cells import _choose_lines
from muport.velocity import Trajectories
from muport.velocity.dynamics._paths import Paths


@pytest.fixture
def line() -> AnnData:
    """200 cells on a line in the representation, and on twice that line in the picture."""
    x = np.linspace(0, 1, 200)
    obs = pd.DataFrame({"pseudotime": x, "clusters": np.where(x < 0.5, "early", "late")})
    obs.index = obs.index.astype(str)
    flat = np.zeros(200)
    obsm = {"X_pca": np.stack([x, flat, flat], axis=1), "X_umap": np.stack([2 * x, flat], axis=1)}
    return AnnData(np.zeros((200, 1)), obs=obs, obsm=obsm)


@pytest.fixture
def two_paths() -> Trajectories:
    x = np.zeros((2, 4, 3), np.float32)
    x[:, :, 0] = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.7, 0.7, 0.7]]
    paths = Paths(x, np.zeros((2, 4), np.float32), np.array([4, 2]), np.zeros(2, np.int8))
    ends = np.array(["early", "late"])
    one = np.ones(2, np.int8)
    return Trajectories(
        paths, one, np.array([20, 100]), np.zeros((2, 4), np.int64), ends, ends, (("early",),) * 2, 2, 0.1
    )


def test_paths_are_placed_in_the_picture(line, two_paths):
    ax = muport.pl.trajectories(line, two_paths)
    drawn = [ln.get_xydata() for ln in ax.lines]
    assert [len(xy) for xy in drawn] == [4, 2]
    assert np.allclose(drawn[0][:, 0], [0.2, 0.4, 0.6, 0.8], atol=0.02)
    assert len(muport.pl.trajectories(line, two_paths, trajectory_ids=[1]).lines) == 1
    with pytest.raises(ValueError, match="between 0 and 1"):
        muport.pl.trajectories(line, two_paths, trajectory_ids=[2])


def test_flow_shows_the_shares(line, two_paths):
    ax = muport.pl.flow(line, two_paths)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["early 50%", "late 50%"]


def test_a_flow_of_many_particles_draws_a_part_of_each_cluster():
    terminal = np.array(["rare"] * 2 + ["frequent"] * 198)
    chosen = _choose_lines(terminal)
    assert len(set(chosen)) == len(chosen) <= 52
    assert (terminal[chosen[-1:]] == "rare").all()
    assert sorted(_choose_lines(terminal[:5])) == [0, 1, 2, 3, 4]


def test_stored_paths_and_windows(line):
    muport.velocity.velocity(line, n_epochs=5, verbose=False)
    muport.velocity.compute_trajectories(line, n_trajectories=3)
    assert len(muport.pl.trajectories(line).lines) == 3
    ax = muport.pl.windows(line)
    arrows = next(c for c in ax.collections if hasattr(c, "U"))
    assert len(arrows.U) == (line.uns["velot_windows"]["direction"] > 0).sum()
    assert (arrows.U > 0).all()
    with pytest.raises(KeyError, match="simulate_flow"):
        muport.pl.flow(line)


def test_paths_stand_out_from_cells_without_colour(line, two_paths):
    red, green, blue = muport.pl.trajectories(line, two_paths).collections[0].get_facecolor()[0][:3]
    assert red == green == blue


@pytest.mark.promise("A cell without a finite value changes no other arrow of a figure")
def test_a_position_that_is_not_finite_is_left_out(line, two_paths, record_property):
    record_property("tries", 3)
    line.obs["pseudotime"] = np.linspace(0, 1, 200)
    muport.velocity.build_windows(line)
    states = muport.velocity.meta_states(
        muport.velocity.cell_kernel(line.obsm["X_pca"], np.ones((200, 3)) * [1, 0, 0]), line.obsm["X_pca"], 3
    )
    before = [ln.get_xydata() for ln in muport.pl.trajectories(line, two_paths).lines]
    line.obsm["X_umap"][50] = np.nan
    after = [ln.get_xydata() for ln in muport.pl.trajectories(line, two_paths).lines]
    assert all(np.allclose(a, b, atol=0.02) for a, b in zip(before, after, strict=True))
    arrows = next(c for c in muport.pl.windows(line).collections if hasattr(c, "U"))
    assert np.isfinite(arrows.U).all()
    assert np.isfinite(muport.pl.coarse_graph(states, line).collections[-1].get_offsets()).all()


def test_paths_have_a_short_description(two_paths):
    text = repr(two_paths)
    assert text.splitlines() == [
        "Trajectories: 2 paths (2 forward, 0 backward; 2 starts tried), "
        "2 to 4 points in 3 dimensions; ended by: end (2)",
        "  from: early (1), late (1)",
        "  to: early (1), late (1)",
    ]
    assert repr(two_paths.paths) == "Paths: 2 paths, 2 to 4 points in 3 dimensions; ended by: end (2)"


def test_a_path_stays_on_one_of_two_islands(line, two_paths):
    line.obsm["X_umap"][::2, 1] = 10  # every second cell lies on another island
    for drawn in muport.pl.trajectories(line, two_paths).lines:
        height = drawn.get_ydata()
        assert (abs(height) < 0.5).all() or (abs(height - 10) < 0.5).all()


def test_no_line_crosses_a_gap(line, two_paths):
    line.obsm["X_umap"][50:, 1] = 10  # the later part of the first path lies on another island
    first, second = (drawn.get_xydata() for drawn in muport.pl.trajectories(line, two_paths).lines)
    assert np.isnan(first).all(axis=1).tolist() == [False, False, True, False, False]
    assert np.isfinite(second).all()
    muport.pl.flow(line, two_paths)
