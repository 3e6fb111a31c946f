"""What users of scanpy and scvi-tools expect of every function: names of arguments, defaults, summaries."""

from __future__ import annotations

import inspect
import logging

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import muport

QUIET = {"progress": False, "accelerator": "cpu"}
TRAIN = {"Integration": {"max_iter": 2}, "GMM": {"k_comps": 2}, "Velocity": {"n_steps": 20}}
SETUP = {
    "Integration": {"batch_key": "batch", "labels_key": "type"},
    "GMM": {"sample_key": "sample", "labels_key": "condition"},
    "Velocity": {"time_key": "time"},
}


def cells(n: int = 120, seed: int = 0, prefix: str = "c") -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(n)])
    obs["batch"], obs["type"] = np.array(["a", "b"])[rng.integers(2, size=n)], np.array(["A", "B", "C"])[kind]
    sample = np.arange(n) % 6
    obs["sample"], obs["condition"] = sample.astype(str), np.array(["x", "y"])[sample % 2]
    obs["time"] = rng.random(n)
    adata = anndata.AnnData(rng.poisson(1.0, (n, 5)).astype(np.float32), obs)
    x = 4 * np.eye(3, 5)[kind] + 0.5 * rng.normal(size=(n, 5)) + obs["time"].to_numpy()[:, None]
    adata.obsm["X_pca"] = x.astype(np.float32)
    return adata


@pytest.fixture(scope="module", params=SETUP)
def model(request):
    cls = getattr(muport, request.param)
    data = cells()
    cls.setup_anndata(mdata=data, **SETUP[request.param])
    model = cls(adata=data)
    model.train(**TRAIN[request.param], **QUIET)
    return model


@pytest.mark.parametrize("name", SETUP)
def test_no_set_up_needs_a_batch_key(name):
    for method in ("setup_anndata", "setup_mudata"):
        parameters = inspect.signature(getattr(getattr(muport, name), method)).parameters
        assert "batch_key" not in parameters or parameters["batch_key"].default in (None, "auto")


def test_the_cells_are_the_first_argument_under_any_name(model):
    new = cells(60, 1, "n")
    new.obs["sample"] = "s" + new.obs["sample"]
    expected = model.get_latent_representation(new)
    for name in ("adata", "mdata"):
        assert np.array_equal(model.get_latent_representation(**{name: new}), expected)
        assert np.array_equal(model.map_query(**{name: new}), expected)
    chosen = model.get_latent_representation(new, ["n7", "n3"])
    assert np.array_equal(chosen, expected[[7, 3]])
    of_type = new.obs["type"] == "A"
    assert np.array_equal(model.get_latent_representation(new, indices=of_type), expected[of_type])
    with pytest.raises(TypeError, match="cells are passed twice"):
        model.map_query(new, adata=new)
    with pytest.raises(KeyError, match="indices names 1 cells that do not exist"):
        model.get_latent_representation(new, ["nobody"])


def test_query_data_are_described_by_the_reference(model, tmp_path):
    cls, new = type(model), cells(60, 1, "n")
    new.obs["batch"], new.obs["sample"] = "unseen", "s" + new.obs["sample"]
    model.save(tmp_path / "m")
    expected = model.map_query(new)
    for reference in (tmp_path / "m", model):
        query = cls.load_query_data(new, reference)
        assert np.array_equal(query.get_latent_representation(), expected)
        assert np.array_equal(query.get_latent_representation(cells()), model.map_query(cells()))
        assert "query cells" in repr(query)
        with pytest.raises(ValueError, match="not trained again"):
            query.train(**QUIET)
        if hasattr(query, "predict"):
            assert query.predict().equals(model.predict(new))
    del new.obsm["X_pca"]
    with pytest.raises(KeyError, match="New cells are not set up: pass them to load_query_data"):
        cls.load(tmp_path / "m", new)
    with pytest.raises(TypeError, match="reference_model is a dict"):
        cls.load_query_data(new, {})
    with pytest.raises(KeyError):
        cls.load_query_data(anndata.AnnData(np.ones((3, 2))), model)


def test_a_model_prints_a_short_table(model):
    text, html = repr(model), model._repr_html_()
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 30
    assert "120 cells" in text
    categories = {"Integration": "batch=2, labels=3", "GMM": "labels=2, sample=6"}  # no label is no category
    assert categories.get(type(model).__name__, "120 cells") in text
    assert ("categories" in text) == (type(model).__name__ in categories)
    assert ", Trained" in text
    assert html.startswith("<table>")
    assert "120 cells" in html


def test_results_print_no_numbers():
    rng = np.random.default_rng(0)
    plan = muport.ot.solve(rng.random((30, 2)), rng.random((20, 2)))
    assert len(repr(plan)) < 500
    assert "(30, 20)" in repr(plan)


def three() -> mudata.MuData:
    rna, prot = cells(), cells(seed=0)
    prot.var_names = [f"p{i}" for i in range(5)]
    atac = prot.copy()
    atac.var_names = [f"q{i}" for i in range(5)]
    atac.obsm["X_lsi"] = atac.obsm["X_pca"]
    del atac.obsm["X_pca"]
    return mudata.MuData({"rna": rna, "prot": prot, "atac": atac})


def test_modalities_that_have_the_key_take_part(caplog):
    for cls, setup in ((muport.Integration, {"batch_key": "batch"}), (muport.GMM, {"sample_key": "rna:sample"})):
        data = three()
        data.obs["batch"] = data["rna"].obs["batch"]
        data.obs["rna:sample"] = data["rna"].obs["sample"]
        with caplog.at_level(logging.WARNING, "muport"):
            cls.setup_mudata(data, **setup)
        assert caplog.messages.pop() == (
            "obsm['X_pca'] of rna, prot takes part; atac (obsm: X_lsi) is left out: pass "
            "use_rep={'rna': 'X_pca', 'prot': 'X_pca', 'atac': 'X_lsi'} to use all."
        )
        model = cls(data)
        assert model._modalities == ("rna", "prot")
        assert model.registry_["setup_args"]["use_rep"] == {"rna": "X_pca", "prot": "X_pca"}
        caplog.clear()


def test_the_column_of_the_batches_is_found(caplog):
    with caplog.at_level(logging.INFO, "muport"):
        for data, text, key in ((cells(), "the batches of 'batch'", "batch"), (cells(), "one batch", None)):
            if key is None:
                del data.obs["batch"]
            muport.Integration.setup_anndata(data)
            assert f"batch_key='auto': {text}." in caplog.text
            assert muport.Integration(data).registry_["setup_args"]["batch_key"] == key
            caplog.clear()
    data = cells()
    muport.Integration.setup_anndata(data, batch_key=None)
    assert muport.Integration(data).registry_["setup_args"]["batch_key"] is None


@pytest.mark.promise("A neighbor graph of the user is never replaced without overwrite=True")
def test_only_a_graph_of_muport_is_replaced(tmp_path):
    counts = cells()
    counts.X = np.random.default_rng(0).poisson(3.0, (120, 5)).astype(np.float32)
    del counts.obsm["X_pca"]
    muport.pp.prepare(counts, n_comps=4, progress=False)
    counts.write(tmp_path / "prepared.h5ad")

    def trained(data: anndata.AnnData) -> muport.Integration:
        muport.Integration.setup_anndata(data, batch_key="batch")
        model = muport.Integration(data)
        model.train(max_iter=2, **QUIET)
        return model

    read = anndata.read_h5ad(tmp_path / "prepared.h5ad")
    for data in (counts.copy(), read):
        model = trained(data)
        model.write(data)
        assert data.uns["neighbors"]["params"]["use_rep"] == "X_muport"
        model.write(data, key="X_again")
        assert data.uns["neighbors"]["params"]["use_rep"] == "X_again"

    changed = counts.copy()
    changed.obsp["connectivities"] = changed.obsp["connectivities"] * 0.5
    own = counts.copy()
    sc.pp.neighbors(own, use_rep="X_pca")
    for data in (changed, own):
        before = data.obsp["connectivities"].copy()
        with pytest.raises(ValueError, match=r"uns\['neighbors'\].* would be overwritten"):
            trained(data).write(data)
        assert (data.obsp["connectivities"] != before).nnz == 0
