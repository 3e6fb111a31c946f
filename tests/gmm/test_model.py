"""The model: what its parameters do, what it predicts, and what it refuses."""

from __future__ import annotations

import inspect
import random

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from sklearn.exceptions import NotFittedError

from muport import GMM
from muport._arrays import canonical_order
from muport.gmm.mixtures._em import fit_mixtures

QUIET = {"verbose": False}

# ggml-ot's fit_gmm, without its data set
SEED = {
    "component_sharing": "sample_specific", "k_comps": None, "k_selection_metric": "aic", "refit": "none",
    "covariance_type": "full", "train_size": 0.5, "max_iter": 100, "tol": 1e-3, "n_init": 1, "eps": 1e-4,
    "singularity_handling": "guarded", "gmm_key": None, "verbose": True,
}  # fmt: skip


def means(model: GMM) -> np.ndarray:
    return model.state_.cohort.mixtures.means


def fitted(model: GMM, **settings) -> GMM:
    model.fit_gmm(**{"k_comps": 2, **QUIET, **settings})
    return model


def part(adata: AnnData, patients: int | list[int]) -> AnnData:
    names = adata.obs["sample"].cat.categories[np.atleast_1d(patients)]
    return adata[adata.obs["sample"].isin(names)].copy()


@pytest.fixture(scope="module")
def small(drawn) -> AnnData:
    return drawn(6, 40)


@pytest.fixture
def bare(small, set_up) -> GMM:
    """Not fitted, on data of its own."""
    return set_up(small.copy())


def test_signature_is_that_of_ggml_ot():
    given = list(inspect.signature(GMM.fit_gmm).parameters.values())[1:]
    assert {p.name: p.default for p in given[: len(SEED)]} == SEED
    assert [p.name for p in given[: len(SEED)]] == list(SEED)
    assert all(p.kind is p.KEYWORD_ONLY for p in given[len(SEED) :])


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ({}, {"component_sharing": "global"}),
        ({}, {"k_comps": 3}),
        ({"k_comps": (1, 2, 3)}, {"k_selection_metric": "bic"}),
        ({"k_comps": (1, 2, 3)}, {"refit": "full"}),
        ({"k_comps": (1, 2, 3)}, {"train_size": 0.8}),
        ({}, {"covariance_type": "diag"}),
        ({"shrinkage": False, "k_comps": 6}, {"max_iter": 1}),
        ({"shrinkage": False, "k_comps": 6}, {"tol": 1.0}),
        ({"shrinkage": False, "k_comps": 6}, {"n_init": 8}),
        ({}, {"eps": 0.5}),
        ({}, {"shrinkage": 3.0}),
        ({}, {"shrinkage": False}),
        ({"shrinkage": False, "k_comps": 6}, {"random_state": 1}),
    ],
    ids=str,
)
def test_every_parameter_of_the_fit_acts(small, set_up, base, changed):
    one, two = (fitted(set_up(small), **settings).state_.cohort for settings in (base, base | changed))
    assert one.mixtures.covariances.shape != two.mixtures.covariances.shape or not np.allclose(
        one.mixtures.covariances, two.mixtures.covariances, rtol=1e-6
    )


def test_metric_of_choice_decides(small, set_up):
    found = {name: fitted(set_up(small), k_comps=[1, 2, 5], k_selection_metric=name) for name in
             ("aic", "bic", "heldout_nll")}  # fmt: skip
    for name, model in found.items():
        table = model.history_[name]
        assert list(table.index) == [1, 2, 5]
    picked = [tuple(model.state_.cohort.best_k) for model in found.values()]
    assert len(set(picked)) > 1
    assert np.mean(picked[1]) <= np.mean(picked[0])  # the stricter criterion takes no more components


def test_number_of_components(bare):
    bare.fit_gmm(**QUIET)
    assert list(bare.history_["aic"].index) == list(range(1, 11))
    bare.fit_gmm(k_comps=2, **QUIET)
    assert (bare.state_.cohort.best_k == 2).all()
    assert bare.history_ == {}
    bare.fit_gmm(k_comps=np.array([1, 4]).tolist(), **QUIET)
    assert set(bare.state_.cohort.best_k) <= {1, 4}


def test_refit_takes_all_cells(small, set_up):
    cells = small.obsm["X_pca"].astype(float)
    _, code = np.unique(small.obs["sample"], return_inverse=True)
    own = np.stack([cells[code == i].mean(0) for i in range(6)])
    settings = {"k_comps": [1], "shrinkage": False}
    assert np.allclose(means(fitted(set_up(small), refit="full", **settings))[:, 0], own, atol=1e-6)
    assert not np.allclose(means(fitted(set_up(small), refit="none", **settings))[:, 0], own, atol=1e-2)


def test_global_components_are_shared_and_shares_are_not(small, set_up):
    model = fitted(set_up(small), component_sharing="global", k_comps=3)
    assert np.array_equal(means(model), np.broadcast_to(means(model)[:1], means(model).shape))
    weights = model.state_.cohort.mixtures.weights
    assert np.allclose(weights.sum(1), 1)
    assert np.abs(weights - weights[0]).max() > 0.02
    model.train_gmm(2)
    p = model.predict(part(small, [0, 1]), soft=True)
    assert np.allclose(p.sum(axis=1), 1)


def test_auto_shares_only_where_points_are_shared(small, set_up):
    assert fitted(set_up(small), component_sharing="auto").state_.cohort.sharing == "sample_specific"
    same = part(small, [0, 1])
    first = same.obsm["X_pca"][:40]
    same.obsm["X_pca"] = np.tile(first, (2, 1))
    assert fitted(set_up(same, None), component_sharing="auto").state_.cohort.sharing == "global"


def test_without_shrinkage_it_is_plain_em(small, set_up):
    model = fitted(set_up(small), shrinkage=False, k_comps=2)
    _, code = np.unique(small.obs["sample"], return_inverse=True)
    x = small.obsm["X_pca"]
    order = canonical_order(x, code)
    plain = fit_mixtures(x[order], code[order], 2).mixtures
    assert np.array_equal(means(model), plain.means)
    assert model.state_.cohort.priors == {}


def test_shrinkage_draws_to_the_pooled_mixture(small, set_up):
    spread = [np.std(np.sort(means(fitted(set_up(small), shrinkage=v)), axis=1), axis=0).mean() for v in (0, 20, 1e6)]
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1e-2


def degenerate(adata: AnnData) -> AnnData:
    flat = adata.copy()
    chosen = (flat.obs["sample"] == "P02").to_numpy()
    flat.obsm["X_pca"][chosen] = flat.obsm["X_pca"][np.flatnonzero(chosen)[0]]
    return flat


def test_singular_patient_three_ways(small, set_up):
    flat = degenerate(small)
    how = {"shrinkage": False, "k_comps": 1}
    guarded = fitted(set_up(flat), **how)
    with pytest.warns(RuntimeWarning, match="component 0 of sample 'P02'"):
        robust = fitted(set_up(flat), singularity_handling="robust", **how)
    variance = [np.trace(m.state_.cohort.mixtures.covariances[2, 0]) for m in (guarded, robust)]
    assert 0 < variance[0] <= variance[1]
    assert np.isfinite(robust.get_responsibilities()).all()
    strict = set_up(flat)
    with pytest.raises(ValueError, match=r"component 0 of sample 'P02' is singular.*fewer components"):
        fitted(strict, singularity_handling="strict", **how)
    assert not strict.is_trained_
    assert strict.state_ is None
    usual = fitted(set_up(small), singularity_handling="strict", **how)
    usual.train_gmm(2)
    with pytest.raises(ValueError, match="sample 'P02' is singular"):
        usual.predict(flat)


@pytest.mark.parametrize("kind", ["anndata", "mudata"])
def test_gmm_key_writes_what_survives_a_file(small, tmp_path, kind):
    if kind == "anndata":
        data = small.copy()
        GMM.setup_anndata(data, labels_key="condition")
    else:
        data = MuData({"rna": small.copy()})
        for name in ("sample", "condition"):
            data.obs[name] = data["rna"].obs[name]
        GMM.setup_mudata(data, labels_key="condition")
    model = fitted(GMM(data), gmm_key="gmm_X_pca", k_comps=[2, 3])
    data.write(tmp_path / "data")
    read = (anndata.read_h5ad if kind == "anndata" else mudata.read_h5mu)(tmp_path / "data")
    mixtures = model.state_.cohort.mixtures
    assert np.array_equal(read.uns["gmm_X_pca"]["mu"], mixtures.means)
    assert np.array_equal(read.uns["gmm_X_pca"]["var"], mixtures.covariances)
    assert np.array_equal(read.uns["gmm_X_pca"]["pi"], mixtures.weights)
    assert list(read.uns["gmm_X_pca"]["samples"]) == list(model.state_.samples)
    assert np.array_equal(read.obsm["gmm_X_pca_resp"], model.get_responsibilities())
    assert (read.obs["gmm_X_pca_comp"].astype(int) == model.get_responsibilities().argmax(1)).all()


def test_nothing_is_written_unless_asked(cohort, model):
    assert model.is_trained_
    assert set(cohort.uns) == {"simulation", "_scvi_uuid", "_scvi_manager_uuid"}
    assert set(cohort.obsm) == {"X_pca"}


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ({}, {"n_comps": 1}),
        ({}, {"method": "triplet"}),
        ({}, {"ridge": 0.01}),
        ({}, {"tau": 0.3}),
        ({}, {"offset": True}),
        ({}, {"mix": 0.25}),
        ({}, {"bures": True}),
        ({"method": "triplet"}, {"alpha": 3.0}),
        ({"method": "triplet"}, {"reg": 1.0}),
        ({"method": "triplet", "reg": 1.0}, {"reg_type": "nuc"}),
        ({"method": "triplet"}, {"lr": 0.01}),
        ({"method": "triplet"}, {"max_iter": 1}),
        ({"method": "triplet"}, {"stop_thr": 1e9}),
        ({"method": "triplet"}, {"entropic_reg": 0.5}),
        ({"method": "triplet", "bures": True}, {"mi_reg": 1.0}),
        ({"mix": 0.5}, {"n_states": 2}),
    ],
    ids=str,
)
def test_every_parameter_of_the_metric_acts(small, set_up, base, changed):
    model = fitted(set_up(small), k_comps=3)
    given = {"n_comps": 2, "ridge": 0.3, "offset": False, "mix": 1.0, "max_iter": 4}
    values = []
    for settings in (given | base, given | base | changed):
        model.train_gmm(**settings)
        values.append(model.get_sample_distances("learnt").to_numpy())
    assert not np.allclose(values[0], values[1], rtol=1e-4)


def test_axis_finds_the_shift(cohort, model):
    moved = (cohort.obs["cell_type"] == cohort.uns["simulation"]["affected_state"]).to_numpy()
    place = pd.Series(model.get_latent_representation()[moved, 0])
    of = cohort.obs[moved].reset_index().groupby(["condition", "sample"], observed=True).indices
    case, control = (np.array([place[rows].mean() for (c, _), rows in of.items() if c == name]) for name in
                     ("case", "control"))  # fmt: skip
    assert abs(case.mean() - control.mean()) > 4 * max(case.std(), control.std())
    assert model.metrics_["loss"] < 0.3


def test_latent_is_linear(cohort, model):
    w = model.state_.classifier.metric.w
    assert np.allclose(model.get_latent_representation(), cohort.obsm["X_pca"] @ w.T, atol=1e-4)
    assert np.array_equal(model.map_query(cohort[5:9].copy()), model.get_latent_representation()[5:9])


def test_without_labels(small, set_up):
    plain = set_up(small.copy(), None)
    plain.train(k_comps=2, progress=False)
    z = plain.get_latent_representation()
    assert np.array_equal(z, small.obsm["X_pca"])
    assert not np.shares_memory(z, plain.adata.obsm["X_pca"])
    assert plain.get_sample_distances().shape == (6, 6)
    assert plain.get_sample_embedding().shape == (6, 2)
    assert len(plain.match_components()) == 2
    for call in (plain.predict, lambda: plain.get_sample_distances("learnt"), plain.cross_validate, plain.train_gmm):
        with pytest.raises(ValueError, match="labels_key"):
            call()


def test_responsibilities(model):
    r = model.get_responsibilities()
    assert r.shape == (12 * 60, 3)
    assert r.dtype == np.float32
    assert np.allclose(r.sum(1), 1, atol=1e-6)
    assert (r >= 0).all()


def test_same_seed_same_bits_and_the_global_generators_stay(cohort, set_up, model):
    def states():
        return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()  # noqa: NPY002

    before = states()
    again = set_up(cohort.copy())
    again.fit_gmm(k_comps=3, refit="full", verbose=False)
    again.train_gmm(n_comps=2, ridge=(0.01, 0.1, 1.0))
    for metric in ("mw2", "sliced", "emd", "moments", "learnt"):
        assert np.array_equal(again.get_sample_distances(metric), model.get_sample_distances(metric))
    assert np.array_equal(again.predict(soft=True), model.predict(soft=True))
    assert np.array_equal(again.get_sample_embedding(), model.get_sample_embedding())
    assert states() == before


def test_new_patients(drawn, model):
    new = drawn(8, 50, random_state=0)  # the same states and shift: the first draws are those of the cohort
    new.obs["sample"] = "N" + new.obs["sample"].astype(str)
    del new.obs["condition"]
    found, soft = model.predict(new), model.predict(new, soft=True)
    assert list(found.index) == [f"NP{i:02d}" for i in range(8)]
    assert found.index.name == "sample"
    assert found.name == "condition"
    assert list(found.cat.categories) == list(soft.columns) == ["case", "control"]
    assert np.allclose(soft.sum(axis=1), 1)
    assert (soft.idxmax(axis=1) == found).all()


def test_new_patients_are_predicted(cohort, set_up):
    rest, new = part(cohort, list(range(3, 12))), part(cohort, [0, 1, 2])
    truth = new.obs.groupby("sample", observed=True)["condition"].first()
    model = set_up(rest)
    model.train(k_comps=3, n_comps=2, progress=False)
    found = model.predict(new)
    assert (found.astype(str) == truth.astype(str).loc[found.index]).all()
    mdata = MuData({"rna": new})
    mdata.obs["sample"] = new.obs["sample"]
    assert np.allclose(model.predict(mdata, soft=True), model.predict(new, soft=True))
    # the prediction of a patient does not depend on the other new patients
    alone = model.predict(part(cohort, 1), soft=True)
    assert np.allclose(alone.loc["P01"], model.predict(new, soft=True).loc["P01"], atol=1e-6)


def test_patients_of_the_fit_by_default(cohort, model):
    truth = cohort.obs.groupby("sample", observed=True)["condition"].first()
    found = model.predict()
    assert list(found.index) == list(truth.index)
    assert (found.astype(str) == truth.astype(str)).all()


def test_patients_of_unknown_condition_do_not_teach(cohort, set_up):
    some = cohort.copy()
    some.obs["condition"] = some.obs["condition"].astype(object)
    some.obs.loc[some.obs["sample"].isin(["P00", "P01"]), "condition"] = np.nan
    model = set_up(some)
    model.train(k_comps=3, n_comps=2, progress=False)
    assert len(model.state_.classifier.mixtures) == 10
    truth = cohort.obs.groupby("sample", observed=True)["condition"].first()
    assert (model.predict().astype(str) == truth.astype(str)).all()
    assert model.cross_validate(n_folds=3).probabilities.shape == (10, 2)
    assert len(model.test_components(n_permutations=19)) == 3


def test_patient_of_one_cell_and_many_components(small, set_up):
    tiny = small[(small.obs["sample"] != "P03") | (np.arange(small.n_obs) % 40 == 0)].copy()
    model = set_up(tiny)
    model.train(k_comps=8, n_comps=2, progress=False)
    assert np.isfinite(model.predict(soft=True)).all(axis=None)
    for metric in ("mw2", "sliced", "emd", "moments", "learnt"):
        assert np.isfinite(model.get_sample_distances(metric)).all(axis=None)
    assert np.isfinite(model.predict(tiny[:1].copy(), soft=True)).all(axis=None)


def test_weights_are_repeated_cells(small, set_up):
    times = np.random.default_rng(0).integers(1, 4, small.n_obs)
    rows = np.repeat(np.arange(small.n_obs), times)
    repeated = AnnData(
        obs=small.obs.iloc[rows].set_index(np.arange(len(rows)).astype(str)), obsm={"X_pca": small.obsm["X_pca"][rows]}
    )
    weighted = small.copy()
    weighted.obs["times"] = times
    one, two = set_up(repeated), set_up(weighted, weight_key="times")
    plain = set_up(small)
    for model in (one, two, plain):
        fitted(model, k_comps=1, refit="full", shrinkage=5.0)
        model.train_gmm(2)
    assert np.allclose(means(one), means(two), atol=1e-6)
    assert not np.allclose(means(plain), means(two), atol=1e-3)
    for metric in ("mw2", "sliced", "emd", "moments", "learnt"):
        assert np.allclose(one.get_sample_distances(metric), two.get_sample_distances(metric), rtol=1e-5, atol=1e-5)
    assert np.allclose(one.predict(repeated, soft=True), two.predict(weighted, soft=True), atol=1e-6)
    left = [model.cross_validate(n_folds=3).probabilities for model in (one, two, plain)]
    assert np.allclose(left[0], left[1], atol=1e-5)
    assert not np.allclose(left[2], left[1], atol=1e-5)


def test_cells_without_weight_are_not_there(small, set_up):
    some = small.copy()
    some.obs["weight"] = (np.arange(small.n_obs) % 2).astype(float)
    kept = small[1::2].copy()
    one, two = set_up(some, weight_key="weight"), set_up(kept)
    for model in (one, two):
        fitted(model, k_comps=1)
    for metric in ("mw2", "sliced"):
        assert np.allclose(one.get_sample_distances(metric), two.get_sample_distances(metric), atol=1e-6)


def two_modalities(adata: AnnData) -> MuData:
    rna, adt = adata.copy(), adata[::-1].copy()
    rna.obsm["X_pca"], adt.obsm["X_lsi"] = rna.obsm["X_pca"][:, :3], adt.obsm["X_pca"][:, 3:]
    mdata = MuData({"rna": rna, "adt": adt[:, :0].copy()})
    for name in ("sample", "condition"):
        mdata.obs[name] = adata.obs[name].loc[mdata.obs_names]
    return mdata


def test_modalities_side_by_side_and_a_joint_space_are_one_matrix(cohort, model):
    mdata = two_modalities(cohort)
    GMM.setup_mudata(mdata, {"rna": "X_pca", "adt": "X_lsi"}, labels_key="condition")
    side = GMM(mdata)
    joint_data = MuData({"rna": cohort[::-1].copy()})
    joint_data.obsm["X_joint"] = joint_data["rna"].obsm["X_pca"]
    for name in ("sample", "condition"):
        joint_data.obs[name] = joint_data["rna"].obs[name]
    GMM.setup_mudata(joint_data, "X_joint", labels_key="condition")
    joint = GMM(joint_data)
    for one in (side, joint):
        one.fit_gmm(k_comps=3, refit="full", verbose=False)
        one.train_gmm(n_comps=2, ridge=(0.01, 0.1, 1.0))
    assert np.allclose(side.get_sample_distances("sliced"), model.get_sample_distances("sliced"), atol=1e-5)
    assert np.allclose(side.predict(soft=True), model.predict(soft=True), atol=1e-5)
    z = pd.DataFrame(joint.get_latent_representation(), joint_data.obs_names)
    r = pd.DataFrame(side.get_responsibilities(), mdata.obs_names)
    assert z.shape == (720, 2)
    assert np.allclose(r.sum(axis=1), 1, atol=1e-6)
    own = pd.DataFrame(model.get_responsibilities(), cohort.obs_names).loc[mdata.obs_names]
    assert np.allclose(np.sort(r, axis=1), np.sort(own, axis=1), atol=1e-4)


def test_rows_in_another_order_than_cells(cohort, set_up):
    """The cells of the modality are not in the order of the object's."""
    mdata = MuData({"rna": cohort[np.random.default_rng(0).permutation(cohort.n_obs)].copy()})
    names = cohort.obs_names
    mdata.obs["sample"], mdata.obs["condition"] = (mdata["rna"].obs[name] for name in ("sample", "condition"))
    mdata.obs["person"] = mdata.obs["sample"].astype(str)
    mdata.mod["rna"] = cohort.copy()
    GMM.setup_mudata(mdata, labels_key="condition")
    model = GMM(mdata)
    model.train(k_comps=3, n_comps=2, progress=False, group_key="person")
    plain = set_up(cohort.copy())
    plain.train(k_comps=3, n_comps=2, progress=False)
    assert np.array_equal(model.get_sample_distances(), plain.get_sample_distances())
    r = pd.DataFrame(model.get_responsibilities(), mdata.obs_names).loc[names]
    assert np.array_equal(r, plain.get_responsibilities())


def test_saved_and_loaded(cohort, model, tmp_path):
    model.save(tmp_path / "m")
    again = GMM.load(tmp_path / "m", adata=cohort.copy(), accelerator="cpu")
    for metric in ("mw2", "sliced", "emd", "moments", "learnt"):
        assert np.array_equal(again.get_sample_distances(metric), model.get_sample_distances(metric))
    assert np.array_equal(again.predict(soft=True), model.predict(soft=True))
    assert again.metrics_ == model.metrics_
    assert again.settings_["fit_gmm"] == model.settings_["fit_gmm"]
    one, two = (m.cross_validate(n_folds=3).probabilities for m in (again, model))
    assert np.array_equal(one, two)


def test_a_model_of_shifted_patients_is_saved(drawn, set_up, tmp_path):
    shifted = drawn(8, 40, patient_offset=2.0)
    model = set_up(shifted.copy())
    model.train(k_comps=3, n_comps=1, progress=False)
    assert model.state_.cohort.shared_states is not None
    model.save(tmp_path / "m")
    again = GMM.load(tmp_path / "m", adata=False, accelerator="cpu")
    assert np.array_equal(again.predict(shifted.copy(), soft=True), model.predict(shifted.copy(), soft=True))
    for metric in ("mw2", "moments"):
        assert np.isfinite(model.get_sample_distances(metric)).all().all()


def test_loaded_without_data(cohort, model, tmp_path):
    model.save(tmp_path / "m")
    bare = GMM.load(tmp_path / "m", adata=False, accelerator="cpu")
    assert np.array_equal(bare.predict(cohort.copy(), soft=True), model.predict(cohort.copy(), soft=True))
    assert np.array_equal(bare.predict(soft=True), model.predict(soft=True))
    assert np.array_equal(bare.get_sample_distances("learnt"), model.get_sample_distances("learnt"))
    assert len(bare.test_components(n_permutations=19)) == 3
    for call in (bare.get_responsibilities, bare.cross_validate, lambda: bare.get_sample_distances("emd"),
                 lambda: bare.get_component_types("cell_type")):  # fmt: skip
        with pytest.raises(ValueError, match="without data"):
            call()


def test_other_data_than_those_of_the_fit(cohort, model, tmp_path):
    model.save(tmp_path / "m")
    other = GMM.load(tmp_path / "m", adata=part(cohort, list(range(1, 12))), accelerator="cpu")
    for call in (other.get_responsibilities, other.cross_validate, lambda: other.get_sample_distances("sliced")):
        with pytest.raises(ValueError, match=r"P00.*data of the fit"):
            call()


def test_a_second_fit_forgets_the_metric(small, set_up):
    model = set_up(small)
    model.train(k_comps=2, progress=False)
    fitted(model, k_comps=3)
    assert model.state_.classifier is None
    with pytest.raises(ValueError, match="train_gmm"):
        model.predict()


def test_untrained(bare):
    for call in (bare.predict, bare.train_gmm, bare.get_sample_distances, bare.get_responsibilities,
                 bare.match_components, bare.cross_validate, bare.get_sample_embedding):  # fmt: skip
        with pytest.raises(NotFittedError, match=r"train\(\)"):
            call()


def test_one_condition_and_one_patient(small, set_up):
    only = small.copy()
    only.obs["condition"] = "case"
    model = set_up(only)
    with pytest.raises(ValueError, match=r"labels_key='condition' has 1 conditions of 6 patients"):
        model.train(k_comps=2, progress=False)
    assert model.state_ is None
    alone = set_up(part(small, 0))
    with pytest.raises(ValueError, match="1 conditions of 1 patients"):
        alone.train(k_comps=2, progress=False)
    fitted(alone)
    assert alone.get_sample_distances().shape == (1, 1)


def test_one_patient_of_each_condition(small, set_up):
    codes = small.obs.groupby("sample", observed=True)["condition"].first()
    pair = [list(codes == name).index(True) for name in ("case", "control")]
    model = set_up(part(small, pair))
    model.train(k_comps=2, n_comps=1, progress=False)
    assert np.allclose(model.predict(soft=True).sum(axis=1), 1)
    with pytest.raises(ValueError, match="no patient left"):
        model.cross_validate()
