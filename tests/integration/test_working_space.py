"""The space of the transport: shared, joint through paired cells, or by geometry alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData, read_h5mu

from muport.data import Setup, read_rows
from muport.integration import Integration
from muport.integration._working_space import embed_rows, find_fitted_group, fit_space, separate_paired_cells
from muport.integration.gromov._gromov_space import GromovSpace
from muport.integration.spaces._joint_space import JointSpace
from muport.integration.spaces._shared_space import SharedSpace
from muport.neighbors import knn

QUIET = {"accelerator": "cpu", "progress": False}


def multiome(n: int = 240, both: int = 120, seed: int = 0, batches: int = 2) -> MuData:
    """Two modalities that see the same four types, in spaces of their own, of cells of which some are in both."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(4, size=n), rng.integers(batches, size=n)
    obs = pd.DataFrame({"batch": np.array([f"b{i}" for i in range(batches)])[batch]}, index=[f"c{i}" for i in range(n)])
    obs["cell_type"] = np.array(list("ABCD"))[kind]
    mods = {}
    for name, d, rows in (("rna", 8, slice(None, (n + both) // 2)), ("atac", 6, slice((n - both) // 2, None))):
        center = 3 * np.linalg.qr(rng.normal(size=(d, d)))[0][:4]
        x = center[kind] + 0.4 * rng.normal(size=(n, d)) + 0.5 * batch[:, None]
        part = AnnData(np.abs(x[rows, :3]).astype(np.float32), obs[rows].copy(), obsm={"X_own": x[rows].astype("f4")})
        part.var_names = [f"{name}{i}" for i in range(3)]
        mods[name] = part
    return MuData(mods)


def setup(mdata: MuData, **kwargs) -> None:
    Integration.setup_mudata(
        mdata,
        **{"use_rep": {"rna": "X_own", "atac": "X_own"}, "labels_key": "rna:cell_type", "batch_key": "batch", **kwargs},
    )


def rows_of(mdata: MuData):
    return read_rows(mdata, Setup({"rna": "X_own", "atac": "X_own"}, separate=True))


@pytest.fixture(scope="module")
def partly():
    mdata = multiome()
    setup(mdata)
    model = Integration(mdata)
    model.train(**QUIET)
    return mdata, model


@pytest.mark.parametrize(("both", "kind"), [(240, JointSpace), (30, JointSpace), (29, GromovSpace), (0, GromovSpace)])
def test_the_number_of_pairs_decides(both, kind):
    mdata = multiome(both=both)
    if both == 29:
        mdata = mdata[~mdata.obs_names.isin(["c106"])].copy()
    assert isinstance(fit_space(rows_of(mdata), seed=0, device="cpu"), kind)


def test_a_joint_space_has_one_row_for_each_cell():
    mdata = multiome()
    rows = rows_of(mdata)
    embedded = embed_rows(rows, fit_space(rows, seed=0, device="cpu"))
    assert embedded.rows.cell.tolist() == list(range(mdata.n_obs))
    in_rna, in_atac = (mdata.obs_names.isin(mdata[m].obs_names) for m in ("rna", "atac"))
    expected = np.where(in_rna & in_atac, "rna+atac", np.where(in_rna, "rna", "atac"))
    assert (np.array(embedded.rows.modalities)[embedded.rows.modality] == expected).all()
    batch = mdata["rna"].obs["batch"].reindex(mdata.obs_names).fillna(mdata["atac"].obs["batch"])
    assert [embedded.rows.groups[g] for g in embedded.rows.group] == [
        f"{k}:{b}" for k, b in zip(expected, batch, strict=True)
    ]
    only = mdata["atac"][~mdata["atac"].obs_names.isin(mdata["rna"].obs_names)]
    own = pd.DataFrame(embedded.rows.own["atac"], index=mdata.obs_names[expected == "atac"])
    assert np.array_equal(own.loc[only.obs_names], only.obsm["X_own"])
    assert embedded.rows.own["rna+atac"] is None


def test_labeled_cells_in_several_modalities_are_separated():
    mdata = multiome(n=60, both=40)
    mdata["rna"].obs.loc[mdata["rna"].obs_names[:20], "cell_type"] = "unknown"
    mdata["atac"].obs = mdata["atac"].obs[["batch"]]
    keys = {"rna": "X_own", "atac": "X_own"}
    rows = read_rows(mdata, Setup(keys, labels_key="rna:cell_type", separate=True))
    alone, cell = separate_paired_cells(rows)
    labelled = mdata["rna"].obs_names[mdata["rna"].obs["cell_type"] != "unknown"]
    expected = mdata["rna"].obs_names.intersection(mdata["atac"].obs_names).intersection(labelled)
    assert len(expected) == 30
    assert alone.n_paired == 0
    assert alone.obs_names.tolist() == rows.obs_names[cell].tolist()
    for code, name in enumerate(alone.modalities):
        held = alone.modality == code
        assert set(alone.obs_names[held]) == set(expected)
        np.testing.assert_array_equal(alone.own[name], mdata[name][alone.obs_names[held]].obsm["X_own"])
        truth = mdata["rna"].obs["cell_type"].astype(str)[alone.obs_names[held]]
        assert [alone.labels[c] for c in alone.label[alone.cell[held]]] == truth.tolist()
        batch = mdata["rna"].obs["batch"].astype(str)[alone.obs_names[held]]
        assert [alone.batches[b] for b in alone.batch[held]] == batch.tolist()


def test_find_fitted_group():
    groups = ("rna+atac:a:1", "rna:b")
    assert find_fitted_group("rna:b", groups) == "rna:b"
    assert find_fitted_group("atac:a:1", groups) == "rna+atac:a:1"
    assert find_fitted_group("atac:b", groups) is None
    assert find_fitted_group("rna+atac:b", groups) is None


def test_an_empty_modality_is_named():
    mdata = multiome(both=0)
    mdata = MuData({"rna": mdata["rna"].copy(), "atac": mdata["atac"][:0].copy()})
    setup(mdata)
    with pytest.raises(ValueError, match="'atac' has no cells"):
        Integration(mdata).train(**QUIET)


def test_types_are_close_whatever_was_measured(partly):
    mdata, model = partly
    z = model.get_latent_representation()
    kind = mdata["rna"].obs["cell_type"].reindex(mdata.obs_names)
    kind = kind.fillna(mdata["atac"].obs["cell_type"]).astype(str).to_numpy()
    labels = model.predict()
    assert (labels.astype(str) == kind).mean() > 0.95
    means = np.stack([z[kind == k].mean(axis=0) for k in "ABCD"])
    nearest = np.linalg.norm(z[:, None] - means, axis=2).argmin(axis=1)
    assert (np.array(list("ABCD"))[nearest] == kind).mean() > 0.95


def test_modalities_have_corrected_representations(partly):
    mdata, model = partly
    for name, width in (("rna", 8), ("atac", 6)):
        corrected = model.get_latent_representation(modality=name)
        assert corrected.shape == (mdata.n_obs, width)
        assert np.isfinite(corrected).all()
        # in the coordinates of the modality: measured values change little
        here = mdata.obs_names.get_indexer(mdata[name].obs_names)
        own = mdata[name].obsm["X_own"]
        assert np.corrcoef(corrected[here].ravel(), own.ravel())[0, 1] > 0.9
    with pytest.raises(KeyError, match="'adt'"):
        model.get_latent_representation(modality="adt")


def test_weights(partly):
    mdata, model = partly
    weights = model.get_modality_weights()
    assert list(weights.columns) == ["rna", "atac"]
    assert weights.index.equals(mdata.obs_names)
    assert np.allclose(weights.sum(axis=1), 1)
    assert (weights >= 0).all(axis=None)


def test_imputation_keeps_measured_values_and_fills_in_the_others(partly):
    mdata, model = partly
    all_paired = multiome(both=240)
    imputed = model.impute("atac")
    assert imputed.obs_names.equals(mdata.obs_names)
    assert list(imputed.var_names) == list(mdata["atac"].var_names)
    measured = imputed.obs["measured"].to_numpy()
    assert (measured == imputed.obs_names.isin(mdata["atac"].obs_names)).all()
    assert np.array_equal(imputed[mdata["atac"].obs_names].X, mdata["atac"].X)
    truth = all_paired["atac"][imputed.obs_names].obsm["X_own"][~measured]
    chance = mdata["atac"].obsm["X_own"].mean(axis=0)
    error = np.square(imputed.obsm["X_own"][~measured] - truth).sum()
    assert error < 0.25 * np.square(truth - chance).sum()


def test_imputation_of_new_cells(partly):
    mdata, model = partly
    query = multiome(n=60, both=10, seed=0)
    for part in query.mod.values():
        part.obs_names = "q" + part.obs_names
    query.update()
    imputed = model.impute("rna", mdata=query)
    assert imputed.shape == (60, 3)
    assert np.array_equal(imputed[query["rna"].obs_names].X, query["rna"].X)
    alone = model.impute("rna", mdata=MuData({"atac": query["atac"].copy()}))
    assert not alone.obs["measured"].any()


def test_imputation_of_sparse_values_stays_sparse(tmp_path):
    from scipy import sparse

    mdata = multiome()
    mdata["atac"].X = sparse.csr_matrix(mdata["atac"].X)
    mdata["atac"].layers["twice"] = 2 * mdata["atac"].X
    setup(mdata)
    model = Integration(mdata)
    model.train(max_iter=2, **QUIET)
    once, twice = model.impute("atac").X, model.impute("atac", layer="twice").X
    assert sparse.issparse(once)
    assert np.allclose(2 * once.toarray(), twice.toarray())
    with pytest.raises(KeyError, match=r"'typo' .* \['twice'\]"):
        model.impute("atac", layer="typo")
    mdata.write(tmp_path / "cells.h5mu")
    backed = read_h5mu(tmp_path / "cells.h5mu", backed="r")
    setup(backed)
    model = Integration(backed)
    model.train(max_iter=2, **QUIET)
    assert np.allclose(model.impute("atac").X.toarray(), once.toarray())


def test_imputation_refuses(partly):
    _, model = partly
    with pytest.raises(KeyError, match="'adt'"):
        model.impute("adt")
    with pytest.raises(KeyError, match="'counts'"):
        model.impute("rna", layer="counts")
    with pytest.raises(ValueError, match="n_neighbors=0"):
        model.impute("rna", n_neighbors=0)


def test_a_modality_alone_is_mapped_by_its_batch(partly):
    """The result for a cell does not depend on the other cells of the query."""
    mdata, model = partly
    names = mdata["atac"].obs_names[-20:]
    alone = MuData({"atac": mdata["atac"][names].copy()})
    z = model.get_latent_representation()[mdata.obs_names.get_indexer(names)]
    assert np.allclose(model.map_query(alone), z, atol=1e-5)


def test_an_anchor_without_its_pair_stays_near(partly):
    mdata, model = partly
    pairs = mdata.obs_names[
        mdata.obs_names.isin(mdata["rna"].obs_names) & mdata.obs_names.isin(mdata["atac"].obs_names)
    ]
    z = model.get_latent_representation()[mdata.obs_names.get_indexer(pairs)]
    alone = model.map_query(MuData({"atac": mdata["atac"][pairs].copy()}))
    assert np.square(alone - z).sum() < 0.5 * np.square(z - z.mean(axis=0)).sum()


def test_modalities_without_shared_features_are_aligned():
    mdata = multiome(both=0)
    setup(mdata)
    model = Integration(mdata)
    model.train(**QUIET)
    assert isinstance(model.state_.space, GromovSpace)
    assert model.get_latent_representation().shape[0] == mdata.n_obs
    assert len(model.predict()) == mdata.n_obs
    assert np.allclose(model.get_modality_weights().to_numpy().max(axis=1), 1)
    for name in ("stability", "margin", "distortion"):
        assert 0 <= model.metrics_[name] <= 1


@pytest.mark.parametrize("reference", ["b0", "atac"])
def test_the_named_reference_stays(reference):
    mdata = multiome()
    setup(mdata)
    model = Integration(mdata, reference=reference, sharpen=0)
    model.train(max_iter=3, **QUIET)
    still = [not group.shift.any() for group in model.state_.maps]
    named = [
        still[m] for name, m in zip(model.state_.groups, model.state_.map_of_group, strict=True) if reference in name
    ]
    assert named
    assert all(named)


@pytest.mark.parametrize("views", ["embedding", "modalities"])
def test_refinement_of_a_joint_space(views, tmp_path):
    mdata = multiome()
    setup(mdata)
    model = Integration(mdata, refine="vae", vae_kwargs={"views": views, "n_prototypes": 4})
    model.train(max_iter=2, max_epochs=2, **QUIET)
    z = model.get_latent_representation()
    assert np.isfinite(z).all()
    assert {"theta", "move"} < set(model.history_)
    model.save(tmp_path / "m")
    assert np.array_equal(Integration.load(tmp_path / "m", adata=False).map_query(mdata), z)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"refine": "more"}, "'none', 'vae'"),
        ({"vae_kwargs": {"beta": 1.0}}, "refine='none'"),
        ({"refine": "vae", "vae_kwargs": {"lam_clst": 1.0}}, "lam_clst"),
        ({"refine": "vae", "vae_kwargs": {"encoder": "rnn"}}, "'rnn'"),
        ({"refine": "vae", "vae_kwargs": {"views": "both"}}, "'both'"),
    ],
)
def test_refinements_that_are_refused(partly, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Integration(partly[0], **kwargs)


def test_the_modalities_cannot_be_views_without_pairs():
    mdata = multiome(both=0)
    setup(mdata)
    model = Integration(mdata, refine="vae", vae_kwargs={"views": "modalities"})
    with pytest.raises(ValueError, match="cells in both"):
        model.train(max_iter=2, max_epochs=1, **QUIET)


def hard(share: float, n: int = 500, seed: int = 0) -> tuple[MuData, pd.Series]:
    """RNA with labels, and noisy ATAC without, a share of it paired; and the truth of the last cells of ATAC alone."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(6, size=n)
    hidden = 1.6 * rng.normal(size=(6, 5))[kind] + rng.normal(size=(n, 5))
    names = np.arange(n) < round(share * n)
    mods = {}
    for name, d, noise in (("rna", 15, 0.7), ("atac", 12, 1.3)):
        x = hidden @ rng.normal(size=(5, d)) / np.sqrt(5) + noise * rng.normal(size=(n, d))
        s = hidden @ np.random.default_rng(9).normal(size=(5, 6)) / np.sqrt(5) + 1.2 * noise * rng.normal(size=(n, 6))
        index = [f"{'both' if both else name}{i}" for i, both in enumerate(names)]
        part = AnnData(np.ones((n, 1), np.float32), pd.DataFrame({"batch": "b"}, index=index))
        part.obsm["X_own"], part.obsm["X_shared"] = x.astype(np.float32), s.astype(np.float32)
        part.var_names = [name]
        mods[name] = part
    mods["rna"].obs["cell_type"] = np.array(list("ABCDEF"))[kind]
    truth = pd.Series(np.array(list("ABCDEF"))[kind], mods["atac"].obs_names)
    return MuData(mods), truth[round(0.6 * n) :]


def test_own_representations_denoise_a_shared_space_unless_a_reference_stays():
    mdata, _ = hard(0.0)
    setup(mdata, shared_rep="X_shared")
    model = Integration(mdata, reference="rna", sharpen=0.0)
    rows = model._rows()
    space = fit_space(rows, seed=0, device="cpu")
    assert isinstance(space, SharedSpace)
    assert not np.allclose(embed_rows(rows, space).rows.x[:, : rows.x.shape[1]], rows.x, atol=0.1)
    assert fit_space(rows, seed=0, device="cpu", denoise_shared=False) is None
    model.train(**QUIET)
    z = pd.DataFrame(model.get_latent_representation(), mdata.obs_names).loc[mdata["rna"].obs_names]
    assert np.array_equal(z, mdata["rna"].obsm["X_shared"])


@pytest.mark.slow
def test_labels_are_transferred_better_the_more_cells_are_paired():
    right, gap = [], []
    for share in (0.0, 0.1, 0.6):
        results = []
        for seed in range(4):
            mdata, truth = hard(share, n=900, seed=seed)
            setup(mdata, shared_rep="X_shared")
            model = Integration(mdata)
            model.train(**QUIET)
            p = model.predict(soft=True).loc[truth.index]
            right_here = p.idxmax(axis=1) == truth
            z = pd.DataFrame(model.get_latent_representation(), mdata.obs_names)
            label = mdata["rna"].obs["cell_type"].astype(str)
            near = knn(z.loc[label.index].to_numpy(), 15, query=z.loc[truth.index].to_numpy()).indices
            votes = pd.DataFrame(label.to_numpy()[near]).mode(axis=1)[0].to_numpy()
            results.append((right_here.mean(), p.max(axis=1).mean() - right_here.mean(), (votes == truth).mean()))
        mean = np.mean(results, axis=0)
        assert mean[0] >= mean[2] - 0.01
        right.append(mean[0])
        gap.append(mean[1])
    assert min(np.diff(right)) > -0.01
    assert right[2] > right[0] + 0.01
    assert np.abs(gap[1:]).max() < 0.06


def test_a_model_of_paired_cells_labels_cells_in_one_modality():
    mdata, _ = hard(1.0)
    setup(mdata, shared_rep="X_shared")
    model = Integration(mdata)
    model.train(**QUIET)
    assert {"rna", "atac"} <= set(model.state_.labels.modality_classifiers)
    assert {"rna", "atac", "rna+atac"} <= set(model.state_.labels.inverse_temperature)
    new, truth = hard(0.0, n=501)
    alone = MuData({"atac": new["atac"][new["atac"].obs_names.isin(truth.index)].copy()})
    assert np.isfinite(model.predict(soft=True, mdata=alone).to_numpy()).all()


FEATURES = {
    "lacks": (["atac1", "atac2"], "lacks 1 features of the model.*'atac0'"),
    "has more": (["atac0", "atac1", "atac2", "other"], "has 1 features that the model lacks.*'other'"),
    "repeats": (["atac0", "atac1", "atac2", "atac2"], "repeat 1 features.*'atac2'"),
}


@pytest.fixture(scope="module")
def with_values():
    mdata = multiome()
    for part in mdata.mod.values():
        part.X = np.random.default_rng(1).poisson(3.0, part.shape).astype(np.float32)
        part.layers["counts"] = part.X + 1
    setup(mdata)
    model = Integration(mdata)
    model.train(max_iter=2, **QUIET)
    return mdata, model


@pytest.mark.promise("Measured values are taken by the names of the features, in any order")
def test_imputation_takes_values_by_feature_name(with_values, record_property):
    mdata, model = with_values
    tries = 0
    for modality, layer in (("atac", None), ("atac", "counts"), ("rna", None)):
        expected = model.impute(modality, layer=layer, mdata=mdata)
        query = MuData({name: part[:, ::-1].copy() for name, part in mdata.mod.items()})
        imputed = model.impute(modality, layer=layer, mdata=query)
        assert list(imputed.var_names) == list(mdata[modality].var_names)
        assert np.array_equal(imputed.X, expected.X)
        assert np.array_equal(imputed.obsm["X_own"], expected.obsm["X_own"])
        tries += 1
    record_property("tries", tries)


@pytest.mark.promise("Measured values are taken by the names of the features, in any order")
@pytest.mark.parametrize("kind", FEATURES)
def test_imputation_refuses_other_features(with_values, kind):
    mdata, model = with_values
    names, message = FEATURES[kind]
    part = mdata["atac"]
    other = AnnData(np.ones((part.n_obs, len(names)), np.float32), obs=part.obs.copy(), obsm=dict(part.obsm))
    other.var_names = names
    with pytest.raises(ValueError, match=message):
        model.impute("atac", mdata=MuData({"rna": mdata["rna"].copy(), "atac": other}))


def test_imputation_in_one_modality_whatever_holds_it(adata):
    Integration.setup_anndata(adata, batch_key=None)
    model = Integration(adata)
    model.train(max_iter=2, **QUIET)
    (modality,) = model._modalities
    for query in (adata, MuData({"rna": adata.copy()})):
        imputed = model.impute(modality, mdata=query)
        assert np.array_equal(imputed.X, adata.X)
        assert imputed.obs["measured"].all()


SPACES = {
    "joint": {"both": 120},
    "joint and shared": {"both": 120, "shared_rep": "X_shared"},
    "shared": {"both": 0, "shared_rep": "X_shared"},
    "Gromov-Wasserstein": {"both": 0},
}


@pytest.mark.promise("A loaded model gives the same answers when the modalities are listed in another order")
@pytest.mark.parametrize("space", SPACES)
def test_order_of_modalities(space, tmp_path, record_property):
    kwargs = dict(SPACES[space])
    mdata = multiome(both=kwargs.pop("both"))
    for part in mdata.mod.values():
        part.obsm["X_shared"] = part.obsm["X_own"][:, :4].copy()
    setup(mdata, **kwargs)
    model = Integration(mdata)
    model.train(max_iter=2, **QUIET)
    model.save(tmp_path / "m")
    turned = MuData({name: mdata[name].copy() for name in ("atac", "rna")})
    loaded = Integration.load(tmp_path / "m", adata=turned)
    pairs = [(model.predict(soft=True), loaded.predict(soft=True))]
    pairs += [(model.get_modality_weights(), loaded.get_modality_weights())]
    for modality in (None, "rna", "atac"):
        expected = pd.DataFrame(model.get_latent_representation(modality=modality), index=mdata.obs_names)
        for found in (
            loaded.get_latent_representation(modality=modality),
            model.get_latent_representation(turned, modality=modality),
        ):
            pairs.append((expected, pd.DataFrame(found, index=turned.obs_names)))
    for modality in ("rna", "atac"):
        expected, found = (one.impute(modality).to_df() for one in (model, loaded))
        pairs.append((expected, found))
    for expected, found in pairs:
        assert np.allclose(found.loc[expected.index, expected.columns], expected, atol=1e-5)
    record_property("tries", len(pairs))


@pytest.mark.promise("The order in which modalities and cells are listed leaves training the same")
@pytest.mark.parametrize("space", SPACES)
def test_training_with_modalities_and_cells_in_another_order(space, record_property):
    kwargs = dict(SPACES[space])
    mdata = multiome(both=kwargs.pop("both"))
    for part in mdata.mod.values():
        part.obsm["X_shared"] = part.obsm["X_own"][:, :4].copy()
    rng = np.random.default_rng(1)
    turned = MuData({name: mdata[name][rng.permutation(mdata[name].n_obs)].copy() for name in ("atac", "rna")})
    found = []
    for data in (mdata, turned):
        setup(data, use_rep=dict.fromkeys(data.mod, "X_own"), **kwargs)
        model = Integration(data)
        model.train(max_iter=2, **QUIET)
        latent = pd.DataFrame(model.get_latent_representation(), index=data.obs_names)
        found.append((latent, model.predict(soft=True), model.get_modality_weights()))
    for first, second in zip(*found, strict=True):
        assert np.allclose(second.loc[first.index, first.columns], first, atol=1e-5)
    record_property("tries", len(found[0]))
