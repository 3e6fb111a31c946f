"""Streams, arrows and losses are drawn where the velocities lead."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import muport


@pytest.fixture
def turning() -> AnnData:
    """A disc whose cells turn around its middle."""
    xy = np.random.default_rng(0).uniform(-1, 1, (800, 2))
    xy = xy[np.hypot(*xy.T) < 1]
    obs = pd.DataFrame({"kind": np.where(xy[:, 0] > 0, "a", "b"), "velot_confidence": np.hypot(*xy.T)})
    obs.index = obs.index.astype(str)
    v = np.stack([-xy[:, 1], xy[:, 0]], axis=1)
    return AnnData(np.zeros((len(xy), 1)), obs=obs, obsm={"X_umap": xy, "velot_velocity_umap": v})


def test_stream_follows_the_field(turning):
    ax = muport.pl.velocity_stream(turning, color="kind")
    lines = np.concatenate([c.get_segments() for c in ax.collections if hasattr(c, "get_segments")])
    middle, step = lines.mean(axis=1), lines[:, 1] - lines[:, 0]
    cross = middle[:, 0] * step[:, 1] - middle[:, 1] * step[:, 0]
    moving = (np.hypot(*middle.T) > 0.2) & (np.hypot(*step.T) > 1e-6)
    assert (cross[moving] > 0).mean() > 0.99
    # no line where there is no cell
    assert np.hypot(*middle.T).max() < 1.1


def test_quiver_scales_to_the_picture(turning):
    ax = muport.pl.velocity_quiver(turning, n_arrows=100, length=0.1)
    arrows = next(c for c in ax.collections if hasattr(c, "U"))
    assert len(arrows.U) == 100
    assert np.hypot(arrows.U, arrows.V).mean() == pytest.approx(0.1 * np.ptp(turning.obsm["X_umap"][:, 0]), rel=0.2)
    assert np.allclose(arrows.U * arrows.XY[:, 0] + arrows.V * arrows.XY[:, 1], 0, atol=1e-9)


def test_the_order_of_cells_does_not_choose_the_arrows(turning):
    drawn = []
    for adata in (turning, turning[::-1].copy()):
        ax = muport.pl.velocity_quiver(adata, n_arrows=20)
        arrows = next(c for c in ax.collections if hasattr(c, "U"))
        drawn.append(np.c_[arrows.XY, arrows.U, arrows.V])
    assert np.allclose(*drawn)


def test_resting_cells_have_no_arrows(turning):
    turning.obsm["velot_velocity_umap"][:] = 0
    muport.pl.velocity_stream(turning)
    muport.pl.velocity_quiver(turning)


def test_confidence(turning):
    assert muport.pl.confidence(turning).get_title() == "confidence"


def test_training_curves():
    history = {"loss": pd.DataFrame({"loss": [4.0, 2.0, 1.0]}), "curl": np.zeros(3), "fit": [4.0, 2.0, 1.0]}
    ax = muport.pl.training_curves(history, smooth=2)
    assert [line.get_label() for line in ax.lines] == ["loss"]
    assert ax.lines[0].get_ydata().tolist() == [3.0, 1.5]
    with pytest.raises(ValueError, match="no loss"):
        muport.pl.training_curves({"curl": np.zeros(3)})
    with pytest.raises(TypeError, match="history is list: pass a dict of losses"):
        muport.pl.training_curves([1.0])


def test_velocities_of_the_representation_are_projected(turning):
    rotation = np.array([[0.0, 1, 0], [-1, 0, 0]])
    turning.obsm["X_pca"] = 3 * turning.obsm["X_umap"] @ rotation
    turning.obsm["velot_velocity"] = 3 * turning.obsm["velot_velocity_umap"] @ rotation
    expected, _ = muport.pl.velocity_quiver(turning, n_arrows=50), turning.obsm.pop("velot_velocity_umap")
    drawn = muport.pl.velocity_quiver(turning, n_arrows=50)
    u, right = (next(c for c in ax.collections if hasattr(c, "U")) for ax in (drawn, expected))
    assert np.allclose(np.stack([u.U, u.V]), np.stack([right.U, right.V]), atol=0.1 * np.abs(right.U).max())
    assert "velot_velocity_umap" not in turning.obsm
    with pytest.raises(ValueError, match="velocity_key='velot_velocity' has shape .*pass the representation"):
        muport.pl.velocity_quiver(turning, use_rep="X_umap", velocity_key="velot_velocity")
    with pytest.raises(KeyError, match="use_rep='X_muport' is not in obsm"):
        muport.pl.velocity_quiver(turning, use_rep="X_muport")


def test_missing_keys_are_named(turning):
    with pytest.raises(KeyError, match="velocity_key='v'.*velot_velocity_umap.*get_velocity"):
        muport.pl.velocity_stream(turning, velocity_key="v")
    with pytest.raises(TypeError, match="data is list: pass an AnnData or a MuData"):
        muport.pl.velocity_stream([1])
    with pytest.raises(KeyError, match="X_tsne"):
        muport.pl.velocity_quiver(turning, "X_tsne")


@pytest.mark.promise("A cell without a finite value changes no other arrow of a figure")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["velot_velocity_umap", "X_umap"])
def test_a_value_that_is_not_finite_changes_no_other_arrow(turning, bad, key, record_property):
    record_property("tries", 2)
    rest = turning[1:].copy()
    turning.obsm[key][0, 1] = bad
    for draw in (muport.pl.velocity_quiver, muport.pl.velocity_stream):
        arrows, expected = (draw(a) for a in (turning, rest))
        for drawn in (arrows, expected):
            drawn.figure.canvas.draw()
        if draw is muport.pl.velocity_quiver:
            found, right = (next(c for c in ax.collections if hasattr(c, "U")) for ax in (arrows, expected))
            assert np.array_equal(found.U, right.U)
            assert np.array_equal(found.XY, right.XY)
        else:
            found, right = (
                np.concatenate([c.get_segments() for c in ax.collections if hasattr(c, "get_segments")])
                for ax in (arrows, expected)
            )
            assert np.allclose(found, right)


def test_velocities_that_are_all_missing_are_refused(turning):
    turning.obsm["velot_velocity_umap"][:] = np.nan
    for draw in (muport.pl.velocity_quiver, muport.pl.velocity_stream):
        with pytest.raises(ValueError, match="velot_velocity_umap.*no cell has a finite velocity"):
            draw(turning)
