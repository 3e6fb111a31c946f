from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from muport import Integration
from muport.integration import _corrected_expression

QUIET = {"accelerator": "cpu", "progress": False, "max_iter": 5}


def measured(n: int = 400, p: int = 30, seed: int = 0, effect: float = 0.8) -> AnnData:
    """Counts of three types in three batches; a batch scales each gene. `X` holds log values, `X_pca` their PCA."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=n), rng.integers(3, size=n)
    log_rate = np.random.default_rng(9).normal(size=(3, p))
    shift = effect * np.random.default_rng(10).normal(size=(3, p))
    counts = rng.poisson(np.exp(1 + log_rate[kind] + shift[batch])).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(counts))
    adata.obs_names, adata.var_names = [f"s{seed}c{i}" for i in range(n)], [f"g{i}" for i in range(p)]
    adata.obs["batch"], adata.obs["cell_type"] = [f"b{i}" for i in batch], [f"t{i}" for i in kind]
    adata.layers["counts"] = adata.X.copy()
    adata.layers["truth"] = np.exp(1 + log_rate[kind])
    depth = np.asarray(adata.X.sum(axis=1))
    adata.X = sparse.csr_matrix(np.log1p(counts / depth * np.median(depth)).astype(np.float32))
    center = np.asarray(adata.X.mean(axis=0))
    _, _, axes = np.linalg.svd(adata.X.toarray() - center, full_matrices=False)
    adata.varm["PCs"] = axes[:10].T.copy()
    adata.obsm["X_pca"] = ((adata.X.toarray() - center) @ adata.varm["PCs"]).astype(np.float32)
    return adata


def fit(adata: AnnData, **kwargs: Any) -> Integration:
    Integration.setup_anndata(adata, batch_key="batch")
    model = Integration(adata, **kwargs)
    model.train(**QUIET)
    return model


@pytest.fixture(scope="module")
def fitted() -> tuple[AnnData, Integration]:
    adata = measured()
    return adata, fit(adata)


def batch_share(values: Any, adata: AnnData, counts: object = False) -> float:
    """Mean fraction of the variance within types that is between batches."""
    x = values.toarray() if sparse.issparse(values) else np.asarray(values)
    if counts:  # of each cell, as a fraction of its depth: that of a cell is not corrected
        x = np.log1p(100 * x / x.sum(axis=1, keepdims=True))
    x = pd.DataFrame(x)
    kind, batch = adata.obs["cell_type"].to_numpy(), adata.obs["batch"].to_numpy()
    within = x - x.groupby(kind).transform("mean")
    means = x.groupby([kind, batch]).transform("mean") - x.groupby(kind).transform("mean")
    return float((means**2).to_numpy().sum() / (within**2).to_numpy().sum())


@pytest.mark.parametrize("layer", [None, "counts"])
def test_batch_effects_are_removed_and_types_stay(fitted, layer):
    adata, model = fitted
    values = adata.X if layer is None else adata.layers[layer]
    corrected = model.get_corrected_expression("adata", layer=layer)
    assert corrected.obs_names.equals(adata.obs_names)
    assert corrected.var_names.equals(adata.var_names)
    assert corrected.X.dtype == np.float32
    assert corrected.uns["corrected_expression"]["scale"] == ("additive" if layer is None else "counts")
    assert batch_share(values, adata, layer) > 0.2
    assert batch_share(corrected.X, adata, layer) < (0.02 if layer is None else 0.06)

    def type_means(x):
        means = pd.DataFrame(np.asarray(x)).groupby(adata.obs["cell_type"].to_numpy()).mean().to_numpy()
        return means / means.sum(axis=1, keepdims=True) if layer else means

    before, after = type_means(values.toarray()), type_means(corrected.to_df())
    assert np.corrcoef((before - before.mean(0)).ravel(), (after - after.mean(0)).ravel())[0, 1] > 0.95


@pytest.mark.promise("Corrected counts are not negative, and zeros stay zeros")
def test_counts_keep_their_zeros(fitted, record_property):
    adata, model = fitted
    tries = 0
    for change in (lambda x: x, lambda x: x.toarray(), lambda x: x.astype(np.int64), sparse.csc_matrix):
        copy = adata.copy()
        copy.layers["counts"] = change(adata.layers["counts"])
        corrected = model.get_corrected_expression("adata", layer="counts", mdata=copy).X
        assert sparse.issparse(corrected) == sparse.issparse(copy.layers["counts"])
        dense = corrected.toarray() if sparse.issparse(corrected) else corrected
        assert ((dense == 0) == (adata.layers["counts"].toarray() == 0)).all()
        assert (dense >= 0).all()
        tries += dense.size
    record_property("tries", tries)


def test_values_follow_the_coordinates_by_the_loadings(fitted, monkeypatch):
    adata, model = fitted
    # without what is left near the centers
    monkeypatch.setattr(_corrected_expression, "_remove", lambda *args: None)
    corrected = model.get_corrected_expression("adata").X
    integrated = model._integrate(None, sharpening=0.0)
    moves = integrated.embedded.rows.x - integrated.y
    assert np.abs(moves).max() > 0.5
    assert np.allclose(corrected, adata.X.toarray() - moves @ adata.varm["PCs"].T, atol=2e-4)


@pytest.mark.promise("Cells that an integration does not move keep their values bit by bit")
@pytest.mark.parametrize("layer", [None, "counts"])
def test_cells_that_do_not_move_keep_their_values(layer, record_property):
    adata = measured()
    values = (adata.X if layer is None else adata.layers[layer]).toarray()

    def dense(model):
        x = model.get_corrected_expression("adata", layer=layer).X
        return x.toarray() if sparse.issparse(x) else x

    assert np.array_equal(dense(fit(adata, strength=0)), values)
    corrected = dense(fit(adata, reference="b1", sharpen=0))
    fixed = (adata.obs["batch"] == "b1").to_numpy()
    assert np.array_equal(corrected[fixed], values[fixed])
    assert not np.isclose(corrected[~fixed], values[~fixed]).all()
    one = adata[fixed].copy()
    assert np.array_equal(dense(fit(one)), values[fixed])
    record_property("tries", 2 * values.size)


@pytest.mark.promise("Rows in another order give the same answer")
@pytest.mark.parametrize("layer", [None, "counts"])
def test_order_does_not_matter(fitted, layer, record_property):
    adata, model = fitted
    expected = model.get_corrected_expression("adata", layer=layer).to_df()
    rng = np.random.default_rng(0)
    other = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    found = fit(other).get_corrected_expression("adata", layer=layer).to_df()
    assert np.allclose(found.loc[expected.index, expected.columns], expected, atol=1e-3)
    tries = [model.get_corrected_expression("adata", layer=layer, mdata=query) for query in (adata, other, other[:50])]
    tries.append(model.get_corrected_expression("adata", layer=layer, mdata=MuData({"adata": other.copy()})))
    for found in (one.to_df() for one in tries):
        assert list(found.columns) == list(expected.columns)
        assert np.allclose(found, expected.loc[found.index], atol=1e-4)
    record_property("tries", 5)


@pytest.mark.promise("Corrected values do not depend on the features that are asked for, nor on the size of blocks")
@pytest.mark.parametrize("layer", [None, "counts"])
def test_features_and_blocks_do_not_matter(fitted, layer, monkeypatch, record_property):
    adata, model = fitted
    expected = model.get_corrected_expression("adata", layer=layer).to_df()
    names = ["g7", "g0", "g29"]
    for features in (names, pd.Index(names), np.array(names), (n for n in names)):
        some = model.get_corrected_expression("adata", layer=layer, features=features)
        assert list(some.var_names) == names
        assert np.allclose(some.to_df(), expected[names], atol=1e-5)
    for size in (1, 64, 1000):
        monkeypatch.setattr(_corrected_expression, "_BLOCK", size)
        found = model.get_corrected_expression("adata", layer=layer, features=None if size > 1 else names).to_df()
        assert np.allclose(found, expected[found.columns], atol=1e-5)
    record_property("tries", 7)


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
def test_saved_and_loaded(fitted, tmp_path):
    adata, model = fitted
    model.save(tmp_path / "m", save_anndata=True)
    for loaded in (Integration.load(tmp_path / "m"), Integration.load(tmp_path / "m", adata=adata.copy())):
        for layer in (None, "counts"):
            expected = model.get_corrected_expression("adata", layer=layer).to_df()
            assert np.array_equal(loaded.get_corrected_expression("adata", layer=layer).to_df(), expected)
    without = Integration.load(tmp_path / "m", adata=False)
    with pytest.raises(ValueError, match="loaded without data"):
        without.get_corrected_expression("adata")


@pytest.mark.parametrize("layer", [None, "counts"])
def test_new_cells_of_a_new_batch(fitted, layer):
    adata, model = fitted
    query = measured(300, seed=1)
    query.obsm["X_pca"] = ((query.X.toarray() - adata.X.mean(axis=0).A1) @ adata.varm["PCs"]).astype(np.float32)
    renamed = query.copy()
    renamed.obs["batch"] = renamed.obs["batch"].replace("b2", "new")
    both = model.get_corrected_expression("adata", layer=layer, mdata=renamed).to_df()
    known = (query.obs["batch"] != "b2").to_numpy()
    alone = model.get_corrected_expression("adata", layer=layer, mdata=query[known].copy()).to_df()
    # cells of known batches do not depend on the others
    assert np.allclose(both[known], alone, atol=1e-5)
    assert batch_share(query.X if layer is None else query.layers[layer], query, layer) > 0.2
    assert batch_share(both, query, layer) < 0.08


def test_several_modalities():
    for both in (True, False):
        rna, atac = measured(), measured(seed=0 if both else 2)
        if both:
            atac = atac[:150].copy()
        atac.var_names = "p" + atac.var_names
        for part in (rna, atac):
            part.obsm["X_shared"] = part.obsm["X_pca"][:, :5].copy()
        mdata = MuData({"rna": rna, "atac": atac})
        before = mdata.copy()
        Integration.setup_mudata(
            mdata, {"rna": "X_pca", "atac": "X_pca"}, "batch", shared_rep=None if both else "X_shared", paired=None
        )
        model = Integration(mdata)
        model.train(**QUIET)
        for name, layer in (("rna", None), ("atac", "counts")):
            names = list(mdata[name].var_names[::2])
            corrected = model.get_corrected_expression(name, layer=layer, features=names)
            assert corrected.obs_names.equals(mdata[name].obs_names)
            values = mdata[name].X if layer is None else mdata[name].layers[layer]
            part = mdata[name]
            assert batch_share(corrected.X, part, layer) < 0.2 * batch_share(values[:, ::2], part, layer)
            assert (before[name].X != mdata[name].X).nnz == 0
        with pytest.raises(KeyError, match="'rna' is not in mdata"):
            model.get_corrected_expression("rna", mdata=MuData({"atac": atac.copy()}))


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"modality": "rna"}, KeyError, r"'rna' is not one of the model's \['adata'\]"),
        ({"layer": "scaled"}, KeyError, "'scaled'.*counts"),
        ({"features": ["g1", "CD3E"]}, KeyError, "CD3E"),
        ({"features": ["g1", "g1"]}, ValueError, "g1"),
        ({"features": []}, ValueError, "at least one"),
        ({"features": "g1"}, TypeError, r"\['g1'\]"),
        ({"layer": "bad"}, ValueError, "NaN"),
    ],
)
def test_refusals(fitted, args, error, message):
    adata, model = fitted
    bad = adata.X.toarray()
    bad[3, 4] = np.nan
    adata.layers["bad"] = bad
    with pytest.raises(error, match=message):
        model.get_corrected_expression(**{"modality": "adata", **args})
    del adata.layers["bad"]


def test_refusals_of_new_cells(fitted):
    adata, model = fitted
    query = adata[:, 1:].copy()
    with pytest.raises(ValueError, match="lacks 1 features"):
        model.get_corrected_expression("adata", mdata=query)
    query = adata.copy()
    query.X = query.layers["counts"]
    with pytest.raises(ValueError, match="another scale"):
        model.get_corrected_expression("adata", mdata=query)
    Integration.setup_anndata(query, batch_key="batch")
    with pytest.raises(AttributeError, match=r"train\(\)"):
        Integration(query).get_corrected_expression("adata")
