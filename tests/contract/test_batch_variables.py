"""Several batch variables and covariates: what is refused, what is removed, and that saved models keep it."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest

import muport

KEYS = ["donor", "platform"]
N = 900


def cells(seed=0, n=N, skip=()):
    """Cells of 3 types, 3 donors and 2 platforms; the effects of donors and platforms add up."""
    rng = np.random.default_rng(seed)
    effects = np.random.default_rng(99)
    kind, donor, platform = (rng.integers(0, k, n) for k in (3, 3, 2))
    depth = rng.normal(size=n)
    x = (
        effects.normal(size=(3, 8))[kind] * 6
        + effects.normal(size=(3, 8))[donor]
        + effects.normal(size=(2, 8))[platform]
    )
    x += depth[:, None] * effects.normal(size=8) * 0.4 + rng.normal(size=(n, 8)) * 0.7
    adata = anndata.AnnData(np.zeros((n, 1), np.float32), obsm={"X_pca": x.astype(np.float32)})
    adata.obs["donor"], adata.obs["platform"], adata.obs["depth"] = [f"d{i}" for i in donor], platform, depth
    adata.obs["type"] = [f"t{i}" for i in kind]
    adata.obs_names = [f"{seed}-{i}" for i in range(n)]
    keep = [(d, p) not in skip for d, p in zip(adata.obs["donor"], adata.obs["platform"], strict=True)]
    return adata[keep].copy()


def fit(adata, strength=0.5, batch_key=tuple(KEYS), train=None, **setup):
    keys = list(batch_key) if isinstance(batch_key, tuple) else batch_key
    muport.Integration.setup_anndata(adata, batch_key=keys, **setup)
    model = muport.Integration(adata, strength=strength)
    model.train(progress=False, **(train or {}))
    return model


def explained(z, adata, key, others=()):
    """Fraction of the variance within types that a column explains beyond others."""
    added = total = 0.0
    for name in adata.obs["type"].unique():
        rows = (adata.obs["type"] == name).to_numpy()
        y = z[rows] - z[rows].mean(axis=0)

        def rest(*columns, y=y, rows=rows):
            values = [adata.obs[column][rows].to_numpy() for column in columns]
            parts = [v[:, None] if v.dtype.kind == "f" else v[:, None] == np.unique(v) for v in values]
            design = np.concatenate([np.ones((len(y), 1)), *parts], axis=1).astype(float)
            return np.square(y - design @ np.linalg.pinv(design) @ y).sum()

        added += rest(*others) - rest(*others, key)
        total += np.square(y).sum()
    return added / total


@pytest.mark.parametrize("removed", KEYS)
def test_one_variable_is_removed_and_the_other_kept(removed):
    adata = cells()
    kept = next(key for key in KEYS if key != removed)
    z = fit(adata, {removed: 1, kept: 0}).get_latent_representation()
    assert explained(adata.obsm["X_pca"], adata, removed) > 0.05
    assert explained(z, adata, removed, [kept]) < 0.02
    # the total within types shrinks by what is removed, so sums of squares are compared
    before, after = (explained(x, adata, kept) * within(x, adata) for x in (adata.obsm["X_pca"], z))
    assert after == pytest.approx(before, rel=0.15)


def within(x, adata):
    return sum(np.square(x[rows] - x[rows].mean(axis=0)).sum() for rows in adata.obs.groupby("type").indices.values())


def test_zero_leaves_every_cell():
    adata = cells()
    assert np.array_equal(fit(adata, {"donor": 0, "platform": 0}).get_latent_representation(), adata.obsm["X_pca"])


def test_one_column_in_a_list_or_a_dict_is_that_column():
    adata = cells()
    expected = fit(adata, 0.3, "donor").get_latent_representation()
    assert np.array_equal(fit(adata, 0.3, ("donor",)).get_latent_representation(), expected)
    assert np.array_equal(fit(adata, {"donor": 0.3}, "donor").get_latent_representation(), expected)


def test_equal_strengths_are_those_of_the_combinations():
    adata = cells()
    adata.obs["batch"] = adata.obs["donor"] + "|" + adata.obs["platform"].astype(str)
    expected = fit(adata, 0.4, "batch").get_latent_representation()
    assert np.array_equal(fit(adata, 0.4).get_latent_representation(), expected)
    assert np.array_equal(fit(adata, {"donor": 0.4, "platform": 0.4}).get_latent_representation(), expected)


def test_a_saved_model_maps_the_same(tmp_path):
    adata, query = cells(skip=[("d2", 1)]), cells(1)
    model = fit(adata, {"donor": 1, "platform": 0.2}, continuous_covariate_keys=["depth"])
    model.save(tmp_path / "m", save_anndata=True)
    loaded = muport.Integration.load(tmp_path / "m")
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    alone = muport.Integration.load(tmp_path / "m", adata=False)
    assert np.array_equal(alone.map_query(query), model.map_query(query))
    assert alone.metrics_ == model.metrics_
    with pytest.raises(ValueError, match=r"\['d2\|1'\]"):
        muport.Integration.load(tmp_path / "m", adata=query)


def test_effects_of_known_levels_add_up_for_a_new_combination():
    adata, query = cells(skip=[("d2", 1)]), cells(1)
    model = fit(adata)
    z = model.map_query(query)
    assert explained(z, query, "donor", ["platform"]) < 0.02
    assert explained(z, query, "platform", ["donor"]) < 0.02
    # the map is that of the levels, so it does not depend on the other cells of the query
    new = ((query.obs["donor"] == "d2") & (query.obs["platform"] == 1)).to_numpy()
    assert np.allclose(model.map_query(query[np.flatnonzero(new)[:3]].copy()), z[new][:3], atol=1e-5)


def test_a_new_level_is_transported_and_the_known_one_kept():
    adata, query = cells(), cells(1)
    model = fit(adata, {"donor": 1, "platform": 0})
    query.obs["donor"] = query.obs["donor"].astype(str) + "-new"
    z = model.map_query(query)
    assert np.isfinite(z).all()
    assert explained(z, query, "donor", ["platform"]) < 0.03
    before, after = (explained(x, query, "platform") * within(x, query) for x in (query.obsm["X_pca"], z))
    assert after == pytest.approx(before, rel=0.3)


def test_levels_are_the_same_in_every_spelling_and_order_of_cells():
    adata, other = cells(), cells()
    model = fit(adata, {"donor": 1, "platform": 0})
    other.obs["platform"] = other.obs["platform"].astype(float).astype(str)
    assert np.array_equal(model.map_query(other), model.get_latent_representation())
    order = np.random.default_rng(0).permutation(adata.n_obs)
    again = fit(cells()[order].copy(), {"platform": 0, "donor": 1}, train={"random_state": 0})
    assert np.allclose(again.get_latent_representation(), model.get_latent_representation()[order], atol=1e-4)


def test_a_covariate_is_removed_alone_and_with_variables():
    adata = cells()
    for strength, left in ((0.5, 0.02), ({"depth": 1}, 0.02), ({"depth": 0}, 1)):
        model = fit(adata, strength, continuous_covariate_keys=["depth"])
        z = model.get_latent_representation()
        assert explained(z, adata, "depth", KEYS) <= left
        if left == 1:
            assert explained(z, adata, "depth", KEYS) > explained(adata.obsm["X_pca"], adata, "depth", KEYS)
        assert {"r2_depth", "r2_left_depth", "confounded_depth"} <= model.metrics_.keys()


def test_confounding_is_reported(capsys, caplog):
    adata = cells(skip=[("d0", 1), ("d1", 1), ("d2", 0)])
    muport.Integration.setup_anndata(adata, batch_key=KEYS)
    model = muport.Integration(adata, strength={"donor": 1, "platform": 0})
    with caplog.at_level("WARNING", "muport"):
        model.train()
    sentence = "Each level of 'donor' occurs in one level of 'platform' only"
    assert sentence in capsys.readouterr().out
    assert sentence in caplog.text
    assert model.metrics_["inseparable"] == 1
    assert model.metrics_["confounded_platform"] == pytest.approx(1)
    z = model.get_latent_representation()
    assert explained(z, adata, "donor", ["platform"]) < 0.02


def test_variables_that_divide_the_cells_alike_need_one_strength():
    adata = cells()
    adata.obs["site"] = adata.obs["donor"].str.replace("d", "site")
    with pytest.raises(ValueError, match="'donor' and 'site' divide the cells alike"):
        fit(adata, {"donor": 1, "site": 0}, ("donor", "site"))
    model = fit(adata, {"donor": 0.5, "site": 0.5}, ("donor", "site"))
    assert model.metrics_["inseparable"] == 2


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        ({"batch_key": ["donor", "plate"]}, KeyError, "batch_key='plate' is not in obs"),
        ({"batch_key": ["donor", "donor"]}, ValueError, "names 'donor' twice"),
        ({"batch_key": []}, ValueError, "is an empty list"),
        ({"batch_key": ["donor", 3]}, TypeError, "must be a list of names of columns"),
        ({"batch_key": {"donor": 1}}, TypeError, "must be a list of names of columns"),
        ({"batch_key": ["donor", "gap"]}, ValueError, "batch_key='gap': 1 cells have no batch"),
        ({"continuous_covariate_keys": "depth"}, TypeError, "must be a list of names of columns"),
        ({"continuous_covariate_keys": ["missing"]}, KeyError, "continuous_covariate_keys='missing' is not in obs"),
        ({"continuous_covariate_keys": ["depth", "depth"]}, ValueError, "names 'depth' twice"),
        ({"continuous_covariate_keys": ["holes"]}, ValueError, r"1 cells have no value \(NaN\)"),
        ({"continuous_covariate_keys": ["infinite"]}, ValueError, "infinite value"),
        ({"continuous_covariate_keys": ["constant"]}, ValueError, "'constant' has the value 2 in all cells"),
        ({"continuous_covariate_keys": ["type"]}, ValueError, "which is not a number"),
        ({"batch_key": KEYS, "continuous_covariate_keys": ["platform"]}, ValueError, "leave it out of one of them"),
    ],
)
def test_bad_columns_are_refused_and_nothing_is_written(setup, error, message):
    adata = cells(n=60)
    adata.obs["constant"], adata.obs["gap"] = 2.0, ["a", None, *["b"] * 58]
    adata.obs["holes"] = adata.obs["infinite"] = adata.obs["depth"]
    adata.obs.iloc[3, adata.obs.columns.get_loc("holes")] = np.nan
    adata.obs.iloc[3, adata.obs.columns.get_loc("infinite")] = np.inf
    before = list(adata.obs), list(adata.uns)
    with pytest.raises(error, match=message):
        muport.Integration.setup_anndata(adata, **({"batch_key": "donor"} | setup))
    assert (list(adata.obs), list(adata.uns)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": {"plate": 1}}, "'plate', which is no batch variable or covariate"),
        ({"strength": {"donor": -0.1}}, r"strength\['donor'\]=-0.1 must be a number from 0 to 1"),
        ({"strength": {"donor": 0, "platform": 1}, "algorithm": "scbiot"}, "needs algorithm='shared'"),
        ({"strength": {"donor": 0, "platform": 1}, "refine": "vae"}, "needs algorithm='shared' and refine='none'"),
        ({"strength": ["donor"]}, "must be a number"),
        ({"reference": "d0"}, "reference='d0' is unknown"),
    ],
)
def test_bad_options_are_refused(options, message):
    adata = cells(n=60)
    muport.Integration.setup_anndata(adata, batch_key=KEYS)
    with pytest.raises(ValueError, match=message):
        muport.Integration(adata, **options)


def test_a_query_needs_the_covariate():
    model = fit(cells(), continuous_covariate_keys=["depth"])
    query = cells(1)
    del query.obs["depth"]
    with pytest.raises(KeyError, match="'depth' is not in obs"):
        model.map_query(query)


def test_other_models_take_one_column():
    adata = cells(n=60)
    adata.obs["time"] = np.arange(60) % 3
    with pytest.raises(TypeError, match="batch_key"):
        muport.Velocity.setup_anndata(adata, time_key="time", batch_key=KEYS)


def test_a_reference_is_a_combination_that_stays():
    adata = cells()
    muport.Integration.setup_anndata(adata, batch_key=KEYS)
    model = muport.Integration(adata, reference="d0|1", sharpen=0, strength={"donor": 1, "platform": 0})
    model.train(progress=False)
    z = model.get_latent_representation()
    rows = ((adata.obs["donor"] == "d0") & (adata.obs["platform"] == 1)).to_numpy()
    assert np.array_equal(z[rows], adata.obsm["X_pca"][rows])
    assert explained(z, adata, "donor", ["platform"]) < 0.02


def test_modalities_are_integrated_whatever_the_strengths_of_the_batches():
    first, second = cells(), cells(1)
    second.obsm["X_pca"] = second.obsm["X_pca"] + 2
    mdata = mudata.MuData({"rna": first, "atac": second})
    muport.Integration.setup_mudata(mdata, use_rep=None, shared_rep="X_pca", batch_key=KEYS)
    model = muport.Integration(mdata, strength={"donor": 1, "platform": 0})
    model.train(progress=False)
    z = model.get_latent_representation()
    # names say the modality: "0-" is RNA and "1-" is ATAC
    obs = pd.concat([first.obs, second.obs]).loc[mdata.obs_names]
    adata = anndata.AnnData(obs=obs.assign(modality=[name[0] for name in obs.index]))
    assert explained(z, adata, "modality", KEYS) < 0.02
    assert explained(z, adata, "donor", ["platform", "modality"]) < 0.03
    assert explained(z, adata, "platform", ["donor", "modality"]) > 0.03


def test_corrected_expression_keeps_the_effect_of_a_variable_that_is_kept():
    adata = cells()
    adata = anndata.AnnData(adata.obsm["X_pca"].copy(), obs=adata.obs, obsm={"X_pca": adata.obsm["X_pca"]})
    values = fit(adata, {"donor": 1, "platform": 0}).get_corrected_expression("adata").X
    assert explained(values, adata, "donor", ["platform"]) < 0.02
    assert explained(values, adata, "platform", ["donor"]) > explained(adata.X, adata, "platform", ["donor"])
    with pytest.raises(ValueError, match="the strength 0 or the largest"):
        fit(adata, {"donor": 1, "platform": 0.2}).get_corrected_expression("adata")


def centroids(data, strength=0.5, batch_key=tuple(KEYS), **options):
    return muport.integrate_centroids(data, batch_key=list(batch_key), strength=strength, verbose=False, **options)


@pytest.mark.parametrize("strength", [0.4, {"donor": 1, "platform": 0, "depth": 1}])
def test_integration_by_centroids_is_that_in_memory(strength, tmp_path):
    adata = cells()
    options = {"continuous_covariate_keys": ["depth"]}
    model = fit(adata, strength, **options)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for data in (adata, tmp_path / "cells.h5ad"):
        result, metrics = centroids(data, strength, k_interp=4, **options)
        assert np.allclose(result.obsm["scBIOT"], model.get_latent_representation(), atol=1e-5)
        for name in ("r2_left_donor", "r2_left_depth", "confounded_depth", "inseparable"):
            assert metrics[name] == pytest.approx(model.metrics_[name], abs=1e-4)


def test_an_interrupted_integration_by_centroids_is_recognized(tmp_path):
    adata = cells()
    options = {"continuous_covariate_keys": ["depth"], "chunk_size": 100}
    path = tmp_path / "out.npy"
    centroids(adata.copy(), {"donor": 1}, tmp_path=path, **options)
    centroids(adata.copy(), {"donor": 1}, tmp_path=path, **options)
    with pytest.raises(FileExistsError, match="strengths was"):
        centroids(adata.copy(), {"donor": 0.25}, tmp_path=path, **options)
    adata.obs["depth"] += 1
    with pytest.raises(FileExistsError, match="covariates of the cells differ"):
        centroids(adata, {"donor": 1}, tmp_path=path, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_key": ["donor", "plate"]}, KeyError, "'plate'"),
        ({"batch_key": ["donor", "donor"]}, ValueError, "names 'donor' twice"),
        ({"continuous_covariate_keys": ["type"]}, ValueError, "not a number"),
        ({"continuous_covariate_keys": ["holes"]}, ValueError, "no finite value"),
        ({"continuous_covariate_keys": ["constant"]}, ValueError, "has the value 2 in all cells"),
        ({"continuous_covariate_keys": ["missing"]}, KeyError, "'missing'"),
        ({"continuous_covariate_keys": ["donor"]}, ValueError, "leave it out of one of them"),
        ({"strength": {"plate": 1}}, ValueError, "'plate', which is no batch variable"),
        ({"strength": {"donor": 1, "site": 0}, "batch_key": ["donor", "site"]}, ValueError, "divide the cells alike"),
    ],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_bad_columns_are_refused_before_a_fit_by_centroids(options, error, message, on_disk, tmp_path):
    adata = cells(n=60)
    adata.obs["constant"], adata.obs["holes"], adata.obs["site"] = 2.0, adata.obs["depth"], adata.obs["donor"] + "s"
    adata.obs.iloc[3, adata.obs.columns.get_loc("holes")] = np.nan
    if on_disk:
        adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(error, match=message):
        centroids(tmp_path / "cells.h5ad" if on_disk else adata, **options)


def test_covariates_of_many_groups_that_are_sampled():
    adata = cells(n=3000)
    result, metrics = centroids(adata, max_samples_per_batch=150, continuous_covariate_keys=["depth"])
    assert metrics["n_sampled"] == 900
    assert explained(result.obsm["scBIOT"], adata, "depth", KEYS) < 0.02


@pytest.mark.parametrize("verbose", [False, True])
def test_integration_by_centroids_prints_only_if_asked(verbose, capsys):
    muport.integrate_centroids(cells(), batch_key=KEYS, verbose=verbose)
    assert ("donor: explains" in capsys.readouterr().out) is verbose
