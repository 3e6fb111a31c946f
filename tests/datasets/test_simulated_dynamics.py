from __future__ import annotations

import numpy as np
import pytest

from muport.datasets import simulated_dynamics

KINDS = ("linear", "bifurcation", "trifurcation", "cycle", "converging")


def _sorted(adata, branch):
    """Time, noiseless position and velocity of a branch and the trunk, in time order."""
    part = adata[adata.obs["branch"].isin([branch, "trunk"]).to_numpy()]
    order = np.argsort(part.obs["time"].to_numpy())
    time = part.obs["time"].to_numpy()[order]
    return time, part.obsm["X_true"][order].astype(float), part.obsm["velocity"][order].astype(float)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_dims", [4, 30])
def test_velocity_is_the_derivative_of_the_path(kind, n_dims):
    adata = simulated_dynamics(kind, n_cells=4000, n_dims=n_dims, random_state=2)
    for branch in [b for b in adata.obs["branch"].cat.categories if b != "trunk"] or ["trunk"]:
        time, x, v = _sorted(adata, branch)
        # the trapezium rule along the path recovers its positions
        step = np.diff(time)[:, None] * (v[1:] + v[:-1]) / 2
        assert np.abs(x[0] + np.cumsum(step, axis=0) - x[1:]).max() < 2e-3
        assert np.linalg.norm(v, axis=1).min() > 5


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_isotropic_and_of_the_size_told(kind):
    adata = simulated_dynamics(kind, n_cells=5000, n_dims=12, noise=0.3)
    residual = adata.obsm["X_pca"] - adata.obsm["X_true"]
    np.testing.assert_allclose(np.cov(residual.T), 0.09 * np.eye(12), atol=0.01)
    assert np.linalg.matrix_rank(adata.obsm["X_true"], tol=1e-2) <= 4
    assert (adata.X == adata.obsm["X_pca"]).all()


@pytest.mark.parametrize(
    ("kind", "n_ends", "n_starts"), [("bifurcation", 2, 1), ("trifurcation", 3, 1), ("converging", 1, 2)]
)
def test_paths_part_and_meet(kind, n_ends, n_starts):
    adata = simulated_dynamics(kind, n_cells=3000, noise=0.0)
    time = adata.obs["time"].to_numpy()
    for where, count in ((time > 0.99, n_ends), (time < 0.01, n_starts)):
        x = adata.obsm["X_true"][where]
        apart = np.linalg.norm(x[:, None] - x, axis=2) > 2
        assert (apart.sum(axis=1) > 0).all() == (count > 1)
        assert len(np.unique(apart, axis=0)) == count
    trunk = adata.obs["branch"] == "trunk"
    split = adata.uns["simulation"]["split"]
    assert (trunk == (time >= split if kind == "converging" else time <= split)).all()


def test_cycle_is_closed():
    adata = simulated_dynamics("cycle", n_cells=3000, noise=0.0)
    time = adata.obs["time"].to_numpy()
    first, last = time.argmin(), time.argmax()
    assert np.linalg.norm(adata.obsm["X_true"][first] - adata.obsm["X_true"][last]) < 0.1
    assert "split" not in adata.uns["simulation"]


@pytest.mark.parametrize(("density", "mean"), [("uniform", 0.5), ("early", 0.25), ("late", 0.75), ((2.0, 8.0), 0.2)])
def test_density_over_time(density, mean):
    time = simulated_dynamics("linear", n_cells=4000, n_dims=5, density=density).obs["time"]
    assert time.between(0, 1).all()
    assert time.mean() == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize(("growth", "shares"), [(0.94, (0.03, 0.97)), (0.0, (0.5, 0.5))])
@pytest.mark.parametrize("kind", ["bifurcation", "converging"])
def test_growth_moves_the_share_of_a_branch(kind, growth, shares):
    obs = simulated_dynamics(kind, n_cells=40_000, n_dims=4, growth=growth).obs
    obs = obs[obs["branch"] != "trunk"]
    edges = obs["time"].quantile([0.05, 0.95])
    first, last = (
        (part["branch"] == "A").mean() for part in (obs[obs.time < edges[0.05]], obs[obs.time > edges[0.95]])
    )
    assert first == pytest.approx(shares[0] + 0.025 * growth, abs=0.04)
    assert last == pytest.approx(shares[1] - 0.025 * growth, abs=0.04)


def test_days_are_real_times():
    adata = simulated_dynamics("bifurcation", days=(2, 4, 6, 10), n_cells=3000)
    free = simulated_dynamics("bifurcation", n_cells=3000)
    assert sorted(adata.obs["time"].unique()) == [2, 4, 6, 10]
    assert adata.uns["simulation"]["split"] == pytest.approx(2 + 8 * 0.4)
    # eight days for what takes one unit without days
    end = adata.obs["time"] == 10
    last = free.obs["time"] > 0.995
    speed = np.linalg.norm(adata.obsm["velocity"][end.to_numpy()], axis=1).mean()
    assert speed * 8 == pytest.approx(np.linalg.norm(free.obsm["velocity"][last.to_numpy()], axis=1).mean(), rel=0.03)
    near = np.abs(free.obs["time"].to_numpy()[:, None] * 8 + 2 - [2, 4, 6, 10]).argmin(axis=1)
    assert (np.bincount(near) == adata.obs["time"].value_counts().sort_index()).all()


def test_batches_differ_in_nothing():
    one = simulated_dynamics("linear", n_cells=200, n_dims=6)
    three = simulated_dynamics("linear", n_cells=200, n_dims=6, n_batches=3)
    assert "batch" not in one.obs
    assert set(three.obs["batch"]) == {"batch0", "batch1", "batch2"}
    assert (one.X == three.X).all()


def test_same_seed_same_data():
    one, two, other = (simulated_dynamics("cycle", n_cells=50, random_state=s) for s in (4, 4, 5))
    assert (one.X == two.X).all()
    assert (one.X != other.X).any()


def test_survives_the_disk(tmp_path):
    import anndata

    adata = simulated_dynamics("bifurcation", n_cells=30, density=(2, 3), n_batches=2)
    adata.write_h5ad(tmp_path / "x.h5ad")
    again = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert (again.obsm["velocity"] == adata.obsm["velocity"]).all()
    assert again.uns["simulation"]["kind"] == "bifurcation"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kind", "tree"),
        ("n_cells", 3),
        ("n_dims", 3),
        ("n_batches", 0),
        ("noise", -0.1),
        ("noise", float("nan")),
        ("density", "middle"),
        ("density", (1.0, 0.0)),
        ("growth", 1.0),
        ("days", (3.0,)),
        ("days", (3.0, 2.0)),
        ("random_state", 1.5),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument}="):
        simulated_dynamics(**{"kind": "bifurcation", argument: value})


@pytest.mark.parametrize("kind", ["linear", "cycle"])
def test_growth_needs_branches(kind):
    with pytest.raises(ValueError, match="growth=0.5 needs branches"):
        simulated_dynamics(kind, growth=0.5)
