"""A batch, label, sample or condition is the same one whatever the spelling, the type and the place of its column."""

from __future__ import annotations

import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest

import muport
from muport._keys import quote_name, unquote_name

#: The column of the integers 0 and 1 in other types.
TYPES = {
    "float32": lambda codes: codes.astype("float32"),
    "float64": lambda codes: codes.astype("float64"),
    "truth values": lambda codes: codes.astype(bool),
    "nullable integers": lambda codes: codes.astype("Int64"),
    "nullable floats": lambda codes: codes.astype("Float64"),
    "nullable truth values": lambda codes: codes.astype("boolean"),
    "objects": lambda codes: codes.astype(object),
    "text": lambda codes: codes.astype(str),
    "nullable text": lambda codes: codes.astype("string"),
    "text of floats": lambda codes: codes.astype(float).astype(str),
    "unused categories": lambda codes: pd.Series(pd.Categorical(codes, [7, 1, 0, 9]), codes.index),
    "ordered": lambda codes: pd.Series(pd.Categorical(codes, [1, 0], ordered=True), codes.index),
    "categories of floats": lambda codes: codes.astype(float).astype("category"),
}


def cells(n=240, names="c"):
    """Cells of two batches with the numbers 0 and 1, and three types."""
    rng = np.random.default_rng(0)
    batch, kind = np.arange(n) % 2, rng.integers(0, 3, n)
    adata = anndata.AnnData(
        np.zeros((n, 1), np.float32), obs={"batch": batch, "type": kind, "sample": np.arange(n) % 8}
    )
    adata.obs_names = [f"{names}{i}" for i in range(n)]
    center = rng.normal(size=(3, 6)) * 5
    adata.obsm["X_pca"] = (center[kind] + batch[:, None] + rng.normal(size=(n, 6))).astype(np.float32)
    return adata


def retyped(adata, how, *columns):
    copy = adata.copy()
    for column in columns:
        copy.obs[column] = TYPES[how](adata.obs[column])
    return copy


def integrated(adata, **options):
    muport.Integration.setup_anndata(adata, batch_key="batch", labels_key="type")
    model = muport.Integration(adata, **options)
    model.train(progress=False, max_iter=3)
    return model


@pytest.fixture(scope="module")
def trained():
    return integrated(cells())


PROMISE = "A column of another type gives the same answer"


@pytest.mark.promise(PROMISE)
def test_training_cells_are_recognized_in_every_type(trained, record_property):
    expected = trained.get_latent_representation()
    for how in TYPES:
        query = retyped(cells(), how, "batch")
        assert np.array_equal(trained.map_query(query), expected), how
    record_property("tries", len(TYPES))


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("how", ["float64", "truth values", "unused categories", "nullable text"])
def test_training_does_not_depend_on_the_type(trained, how, record_property):
    model = integrated(retyped(cells(), how, "batch"))
    assert np.array_equal(model.get_latent_representation(), trained.get_latent_representation())
    record_property("tries", 1)


@pytest.mark.promise(PROMISE)
def test_cells_on_disk_or_in_memory_do_not_depend_on_the_type(tmp_path, record_property):
    def run(data):
        options = {"batch_key": "batch", "label_key": "type", "max_iter": 3, "verbose": False}
        return np.asarray(muport.integrate_centroids(data, **options)[0].obsm["scBIOT"])

    expected = run(cells())
    for how in ("float32", "nullable integers", "truth values", "unused categories", "text"):
        data = retyped(cells(), how, "batch")
        assert np.array_equal(run(data.copy()), expected), how
        data.write_h5ad(tmp_path / "cells.h5ad")
        assert np.allclose(run(tmp_path / "cells.h5ad"), expected, atol=1e-5), how
    record_property("tries", 10)


@pytest.mark.promise("Unclear columns are refused with the names of what is wrong")
def test_unclear_columns_are_refused(record_property):
    adata = cells()
    adata.obs["batch"] = pd.Series([1 if i % 2 else "1" for i in range(240)], adata.obs_names, dtype=object)
    with pytest.raises(ValueError, match=r"batch_key='batch' holds '1' \(str\) and 1 \(int\)"):
        muport.Integration.setup_anndata(adata, batch_key="batch")
    with pytest.raises(ValueError, match=r"column 'batch' holds '1' \(str\) and 1 \(int\)"):
        muport.integrate_centroids(adata, batch_key="batch", verbose=False)
    unused = retyped(cells(), "unused categories", "batch")
    with pytest.raises(ValueError, match=r"reference='9'.*'0'.*'1'"):
        integrated(unused, reference="9")
    with pytest.raises(ValueError, match=r"reference='9'.*'0'.*'1'"):
        muport.integrate_centroids(unused, reference="9", verbose=False)
    record_property("tries", 4)


@pytest.mark.promise("A continuous outcome is not taken for conditions")
def test_numbers_are_conditions_only_if_they_repeat(record_property):
    adata = cells()
    outcomes = {
        "20.5": 20.5 + adata.obs["sample"],
        "8 numbers in 8 samples": 20.0 + adata.obs["sample"],
        "8 numbers in": (20 + adata.obs["sample"]).astype("Int64"),
        "-0.5": (adata.obs["sample"] // 4 - 0.5).astype(object),
    }
    for words, outcome in outcomes.items():
        adata.obs["outcome"] = outcome
        with pytest.raises(ValueError, match=rf"labels_key='outcome' holds .*{words}.*astype\(str\)"):
            muport.GMM.setup_anndata(adata, labels_key="outcome", outcome="class")
        assert not [column for column in adata.obs if column.startswith("_scvi")]
        taken = adata.copy()
        muport.GMM.setup_anndata(taken, labels_key="outcome")
        assert muport.GMM(taken).outcome == "continuous"
    for outcome in (adata.obs["sample"] // 2.0, adata.obs["sample"] % 2, adata.obs["sample"].astype(str)):
        adata.obs["outcome"] = outcome
        muport.GMM.setup_anndata(adata, labels_key="outcome")
        assert muport.GMM(adata).outcome == "class"
    record_property("tries", len(outcomes) + 3)


@pytest.mark.promise("Modalities may have any name")
def test_modalities_may_have_any_name(tmp_path, record_property):
    names = ("atac.v2", "a b/c:d", "a+b", "100%")
    for name in names:
        assert unquote_name(quote_name(name)) == name
    assert quote_name("atac") == "atac"
    mods = {name: cells(60, name) for name in names[:2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.MuData(mods)
    muport.Integration.setup_mudata(mdata, use_rep=None, batch_key="batch", shared_rep="X_pca")
    model = muport.Integration(mdata, reference="a b/c:d")
    model.train(progress=False, max_iter=2)
    model.save(tmp_path / "model")
    loaded = muport.Integration.load(tmp_path / "model", adata=False)
    assert np.array_equal(loaded.map_query(mdata), model.get_latent_representation())
    assert list(model.get_modality_weights().columns) == list(names[:2])
    record_property("tries", len(names))
