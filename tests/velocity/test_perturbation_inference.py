"""Perturbed features of a fork: the direction between its branches is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport.data.projection._recipe import ProjectionRecipe, store_recipe
from muport.velocity import Perturbation, Velocity
from muport.velocity._perturbation_inference import _check_amounts

FORK = {"population": "trunk", "terminal_states": ["A", "B"], "n_members": 2, "n_bootstrap": 20}


@pytest.fixture(scope="module")
def fitted(kit) -> Velocity:
    """A path along the first axis that forks at t = .4 along the second: "A" is up, "B" is down, both end after .7."""
    rng = np.random.default_rng(0)
    time, side = rng.random(400), np.where(rng.random(400) < 0.5, 1, -1)
    x = rng.normal(0, 0.3, (400, 5))
    x[:, 0] += 10 * time
    x[:, 1] += 10 * side * np.maximum(time - 0.4, 0)
    names = np.select([time < 0.4, time < 0.7, side > 0], ["trunk", "middle", "A"], "B")
    obs = pd.DataFrame({"time": time, "branch": names}, index=[f"cell{i}" for i in range(400)])
    return kit.fit(AnnData(obs=obs, obsm={"X_pca": x.astype(np.float32)}), {"labels_key": "branch"}, n_steps=100)


@pytest.fixture(scope="module")
def loadings() -> pd.DataFrame:
    """A gene along the direction from B to A, and one that is orthogonal to all movement."""
    return pd.DataFrame(np.eye(5)[[1, 4]], index=["side", "still"])


def test_a_push_toward_a_branch_raises_its_fate(fitted, loadings):
    changed = fitted.perturb("side", 1.0, loadings=loadings, **FORK)
    assert isinstance(changed, Perturbation)
    table = changed.table
    assert table.loc["A", "lower"] > 0 > table.loc["B", "upper"]
    assert table["change"].sum() == pytest.approx(0, abs=1e-9)
    assert (changed.change["A"][fitted.adata.obs["branch"] == "A"] == 0).all()
    back = fitted.perturb("side", -1.0, loadings=loadings, **FORK)
    assert back.table.loc["A", "upper"] < 0
    still = fitted.perturb(["still"], [0.2], loadings=loadings, **FORK)
    assert abs(still.table.loc["A", "change"]) < 0.3 * table.loc["A", "change"]
    assert "A +" in repr(changed)


def test_without_a_change_the_fates_are_those_of_get_fates(fitted):
    same = fitted.perturb(0, 0.0, **FORK)
    assert np.abs(same.change.to_numpy()).max() < 1e-6
    fates = fitted.get_fates(["A", "B"])
    assert same.table["before"].to_numpy() == pytest.approx(fates[fitted.adata.obs["branch"] == "trunk"].mean())
    assert same.distance.max() < 1e-6


def test_the_same_seed_gives_the_same_and_a_copy_loads(fitted, tmp_path):
    first, again = (fitted.perturb([0, 1], 0.5, **FORK) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, again.table)
    fitted.save(tmp_path / "model")
    loaded = Velocity.load(tmp_path / "model", adata=fitted.adata)
    pd.testing.assert_frame_equal(loaded.perturb([0, 1], 0.5, **FORK).table, first.table)


def test_genes_are_found_in_the_recipe_of_the_representation(fitted, kit):
    adata = fitted.adata.copy()
    recipe = ProjectionRecipe(
        transform="log",
        features=("unused", "side", "flat"),
        used=np.array([1, 2]),
        scale=np.array([0.5, 1.0]),
        mean=np.zeros(2),
        loadings=np.eye(5, dtype=np.float32)[[1, 2]] * np.float32([[1], [0]]),
        offset=np.zeros(5),
    )
    store_recipe(adata, "X_pca", recipe)
    model = kit.fit(adata, {"labels_key": "branch"}, n_steps=40)
    changed, expected = model.perturb("side", 2.0, **FORK), model.perturb(1, 1.0, **FORK)
    pd.testing.assert_frame_equal(changed.table, expected.table)
    for gene in ("unused", "flat", "unknown"):
        with pytest.raises(KeyError, match="have no loading"):
            model.perturb(gene, 1.0)
    with pytest.raises(ValueError, match="no linear function"):
        replace(recipe, unit_coordinates=True).loadings_of(["side"])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"features": "gene", "amount": 1}, ValueError, "no stored loadings"),
        ({"features": [], "amount": 1}, ValueError, "is empty"),
        ({"features": 99, "amount": 1}, KeyError, "numbered 0 to 4"),
        ({"features": -1, "amount": 1}, KeyError, "numbered 0 to 4"),
        ({"features": 0.5, "amount": 1}, TypeError, "names of features"),
        ({"features": True, "amount": 1}, TypeError, "names of features"),
        ({"features": [0, "side"], "amount": 1}, TypeError, "names of features"),
        ({"features": 0, "amount": np.nan}, ValueError, "finite"),
        ({"features": 0, "amount": "much"}, ValueError, "finite"),
        ({"features": 0, "amount": "1"}, ValueError, "finite"),
        ({"features": 0, "amount": True}, ValueError, "finite"),
        ({"features": 0, "amount": 1e30}, ValueError, "smaller amount"),
        ({"features": [0, 0], "amount": 1}, ValueError, "twice"),
        ({"features": [0, 1], "amount": [1, 2, 3]}, ValueError, "2 features"),
        ({"features": 0, "amount": 1, "population": "C"}, KeyError, "not a label"),
        ({"features": 0, "amount": 1, "sample_key": "nothing"}, KeyError, "nothing"),
        ({"features": 0, "amount": 1, "level": 1.5}, ValueError, "level"),
        ({"features": 0, "amount": 1, "n_members": -1}, ValueError, "n_members"),
        (
            {"features": 0, "amount": 1, "terminal_states": ["A", "B", "trunk", "middle"]},
            ValueError,
            "no cell with a fate",
        ),
        ({"features": "none", "amount": 1, "loadings": pd.DataFrame(index=["side"])}, ValueError, "none"),
        ({"features": "side", "amount": 1, "loadings": pd.DataFrame([[1.0]], index=["side"])}, ValueError, "columns"),
        ({"features": "side", "amount": 1, "loadings": np.ones((3, 5))}, ValueError, "pass a table"),
    ],
)
def test_bad_inputs_are_named(fitted, arguments, error, match):
    with pytest.raises(error, match=match):
        fitted.perturb(**arguments)


def test_cells_far_from_the_data_are_counted(fitted):
    with pytest.warns(UserWarning, match="more than 10 nearest-neighbor distances"):
        fitted.perturb(0, 1e3, **FORK)


def test_amounts_are_matched_by_name():
    for given in ({"b": 2.0, "a": 1.0}, pd.Series({"b": 2.0, "a": 1.0}), [1.0, 2.0]):
        assert _check_amounts(given, ["a", "b"]).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="amount"):
        _check_amounts({"a": 1.0, "c": 1.0}, ["a", "b"])


def test_answers_about_the_fit_are_refused_after_its_cells_changed(fitted):
    adata, calls = fitted.adata, (lambda: fitted.get_fates(["A", "B"]), lambda: fitted.perturb(0, 0.1, **FORK))
    before = adata.obsm["X_pca"].copy()
    try:
        adata.obsm["X_pca"][0, 4] += 1e-3
        for call in calls:
            with pytest.raises(ValueError, match="use_rep.*call train"):
                call()
    finally:
        adata.obsm["X_pca"] = before
    assert fitted.get_fates(["A", "B"]).shape == (400, 2)
