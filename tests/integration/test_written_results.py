"""`Integration.write`: the names and values that scanpy and muon read, all of them or none."""

from __future__ import annotations

import time
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData, read_h5ad
from mudata import MuData
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score

from muport import Integration

TRAIN = {"accelerator": "cpu", "progress": False, "max_iter": 3}
OWN = {"rna": "X_own", "atac": "X_own"}
LAYOUTS = ("one modality", "paired", "partly paired", "unpaired", "no features in common")
WRITTEN = {
    "obsm": ["X_muport"],
    "obs": ["prediction", "prediction_confidence"],
    "uns": ["neighbors"],
    "obsp": ["connectivities", "distances"],
}


def measure(names: list[str], modality: str, query: bool) -> AnnData:
    """Cells whose type and position follow from their name, in two batches."""
    number = np.array([int(name[1:]) for name in names])
    kind = number % 3
    z = 4 * np.eye(3, 6)[kind] + 0.5 * np.random.default_rng(0).normal(size=(2000, 6))[number]
    batch = number // 3 % 2
    own = np.hstack([z, z**2])[:, : {"rna": 9, "atac": 8}[modality]]
    own = own + 0.5 * batch[:, None] + 0.1 * np.random.default_rng(1).normal(size=(2000, own.shape[1]))[number]
    adata = AnnData(np.ones((len(names), 1), np.float32), obs=pd.DataFrame(index=names))
    adata.var_names = [f"{modality}_feature"]
    adata.obs["batch"] = np.array(["b0", "b1"])[batch]
    adata.obs["kind"] = np.array(["A", "B", "C"])[kind]
    if not query:
        adata.obs["cell_type"] = np.where(number % 4 == 0, "unknown", adata.obs["kind"])
    adata.obsm["X_own"], adata.obsm["X_shared"] = own.astype(np.float32), z.astype(np.float32)
    return adata


def make(layout: str, *, query: bool = False, n: int = 150) -> AnnData | MuData:
    """The data of a layout; `query`: other cells, without labels."""
    first = 1000 if query else 0
    names = [f"c{first + i}" for i in range(n)]
    if layout == "one modality":
        return measure(names, "rna", query)
    start, stop = {"paired": (0, n), "partly paired": (n // 4, 3 * n // 4)}.get(layout, (n // 2, n // 2))
    return MuData({"rna": measure(names[:stop], "rna", query), "atac": measure(names[start:], "atac", query)})


def train(layout: str, data: AnnData | MuData) -> Integration:
    if isinstance(data, AnnData):
        Integration.setup_anndata(data, "X_own", batch_key="batch", labels_key="cell_type")
    else:
        shared = "X_shared" if layout == "unpaired" else None
        Integration.setup_mudata(data, OWN, batch_key="batch", labels_key="cell_type", shared_rep=shared)
    model = Integration(data)
    model.train(**TRAIN)
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, Integration]:
    return {layout: train(layout, make(layout)) for layout in LAYOUTS}


def shuffled(data: AnnData | MuData) -> AnnData | MuData:
    rng = np.random.default_rng(5)
    if isinstance(data, AnnData):
        return data[rng.permutation(data.n_obs)].copy()
    return MuData({m: a[rng.permutation(a.n_obs)].copy() for m, a in reversed(data.mod.items())})


def contents(data: AnnData | MuData) -> dict[str, Any]:
    """A copy of everything that the object holds, its modalities included."""
    parts = {"": data, **getattr(data, "mod", {})}
    copied = {}
    for name, part in parts.items():
        copied[name, "obs"] = part.obs.copy()
        for where in ("obsm", "obsp", "uns"):
            copied |= {(name, where, key): to_array(value) for key, value in getattr(part, where).items()}
    return copied


def to_array(value: Any) -> Any:
    return value.toarray() if sparse.issparse(value) else np.array(value) if isinstance(value, np.ndarray) else value


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    if first.keys() != second.keys():
        return False
    for key, value in first.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, second[key])
        elif not np.array_equal(value, second[key]) if isinstance(value, np.ndarray) else value != second[key]:
            return False
    return True


@pytest.mark.promise("What is written to the data is what the methods return, under the names that scanpy reads")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_results_are_those_of_the_methods_and_of_scanpy(models, layout, record_property):
    record_property("tries", 2)
    model = models[layout]
    for data, mdata in ((model.adata.copy(), None), (make(layout, query=True), None)):
        if "cell_type" in (data.obs if isinstance(data, AnnData) else data["rna"].obs):
            mdata = data
        before = contents(data)
        assert model.write(data, n_neighbors=12) is None
        latent = model.get_latent_representation(data if mdata is None else mdata)
        assert np.array_equal(data.obsm["X_muport"], latent)
        assert data.obsm["X_muport"].flags.writeable
        assert list(data.obs["prediction"]) == list(model.predict(mdata=data))
        soft = model.predict(soft=True, mdata=data)
        assert np.array_equal(data.obs["prediction_confidence"], soft.max(axis=1))
        weights = model.get_modality_weights(data)
        columns = [f"{m}:mod_weight" for m in weights] if layout != "one modality" else []
        assert [c for c in data.obs if c.endswith("mod_weight")] == columns
        if columns:
            assert np.array_equal(data.obs[columns], weights)
        theirs = AnnData(obs=pd.DataFrame(index=data.obs_names), obsm={"X_muport": latent.copy()})
        sc.pp.neighbors(theirs, 12, use_rep="X_muport")
        written = {name: value for name, value in data.uns["neighbors"].items() if name != "muport_checksum"}
        assert written == theirs.uns["neighbors"]
        for key in ("connectivities", "distances"):
            assert type(data.obsp[key]) is type(theirs.obsp[key])
            assert abs(data.obsp[key] - theirs.obsp[key]).max() < 1e-4
            assert ((data.obsp[key] != 0) != (theirs.obsp[key] != 0)).nnz == 0
        added = {(w, k) for w, keys in WRITTEN.items() for k in keys if w != "obs"}
        after = contents(data)
        assert {key[1:] for key in after.keys() - before.keys()} == added
        new = list(data.obs.columns.difference(before["", "obs"].columns, sort=False))
        assert new == WRITTEN["obs"] + columns
        for key in new:
            del data.obs[key]
        for where, key in added:
            del getattr(data, where)[key]
        assert same(before, contents(data))


@pytest.mark.promise("scanpy's UMAP and Leiden run on the written graph without further arguments")
@pytest.mark.parametrize("layout", ["one modality", "partly paired"])
def test_scanpy_runs_as_it_is(models, layout, tmp_path, record_property):
    record_property("tries", 2)
    model = models[layout]
    data = model.adata.copy()
    model.write(data)
    read = write_and_read(data, tmp_path)
    assert same(contents(data), contents(read)) or layout != "one modality"
    for object_ in (data, read):
        sc.tl.umap(object_)
        sc.tl.leiden(object_, flavor="igraph", n_iterations=2, directed=False)
        kind = np.array(["A", "B", "C"])[[int(name[1:]) % 3 for name in object_.obs_names]]
        assert object_.obsm["X_umap"].shape == (150, 2)
        nearest = neighbor_types(object_.obsm["X_umap"], kind)
        assert (nearest == kind).mean() > 0.95
        clusters = object_.obs["leiden"].astype(str)
        # clusters may be finer than types, but not mix them
        main = pd.Series(kind).groupby(clusters.to_numpy()).agg(lambda k: k.mode()[0])
        assert adjusted_rand_score(kind, main[clusters].to_numpy()) > 0.95
    assert np.array_equal(data.obsm["X_umap"], read.obsm["X_umap"])


def neighbor_types(z: np.ndarray, kind: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return kind[distance.argmin(axis=1)]


def write_and_read(data: AnnData | MuData, folder: Any) -> AnnData | MuData:
    if isinstance(data, AnnData):
        data.write_h5ad(folder / "data.h5ad")
        return read_h5ad(folder / "data.h5ad")
    data.write_h5mu(folder / "data.h5mu")
    return mudata.read_h5mu(folder / "data.h5mu")


@pytest.mark.promise("Written results survive a file and an update of the MuData")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_hold_what_was_written(models, layout, tmp_path, record_property):
    record_property("tries", 2)
    data = make(layout, query=True)
    models[layout].write(data, key_added="muport")
    read = write_and_read(data, tmp_path)
    others = [read]
    if isinstance(data, MuData):
        updated = data.copy()
        updated["rna"].obs["more"] = 1
        updated.update()
        updated.pull_obs()
        others.append(updated)
    for other in others:
        assert np.array_equal(other.obsm["X_muport"], data.obsm["X_muport"])
        for key in ("muport_connectivities", "muport_distances"):
            assert (other.obsp[key] != data.obsp[key]).nnz == 0
        assert other.uns["muport"] == data.uns["muport"]
        for column in data.obs.columns:
            assert list(other.obs[column]) == list(data.obs[column])


@pytest.mark.promise("Rows in another order give the same answer")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cells_in_another_order(models, layout, record_property):
    record_property("tries", 1)
    data = make(layout, query=True)
    other = shuffled(data)
    for each in (data, other):
        models[layout].write(each)
    position = other.obs_names.get_indexer(data.obs_names)
    assert np.allclose(other.obsm["X_muport"][position], data.obsm["X_muport"], atol=1e-5)
    for column in (c for c in data.obs if c.startswith("prediction") or c.endswith("mod_weight")):
        values, expected = other.obs[column].iloc[position], data.obs[column]
        equal = (
            np.allclose(values, expected, atol=1e-5) if values.dtype != "category" else list(values) == list(expected)
        )
        assert equal, column
    for key in ("connectivities", "distances"):
        assert np.abs(other.obsp[key][position][:, position] - data.obsp[key]).max() < 1e-3


def test_the_own_data_by_default(models):
    model = models["partly paired"]
    query = model.adata.copy()
    model.write(threshold=0.9)
    try:
        model.write(query, threshold=0.9)
        assert same(
            {k: v for k, v in contents(model.adata).items() if k[1] != "obs"},
            {k: v for k, v in contents(query).items() if k[1] != "obs"},
        )
        assert list(model.adata.obs["prediction"]) == list(model.predict(threshold=0.9))
    finally:
        for where, keys in {**WRITTEN, "obs": [*WRITTEN["obs"], "rna:mod_weight", "atac:mod_weight"]}.items():
            for key in keys:
                del getattr(model.adata, where)[key]


@pytest.mark.promise("A loaded model writes the same results as the model that was saved")
def test_a_loaded_model_writes_to_query_cells(models, tmp_path):
    models["partly paired"].save(tmp_path / "model")
    model = Integration.load(tmp_path / "model", adata=False)
    query, expected = make("partly paired", query=True), make("partly paired", query=True)
    model.write(query)
    models["partly paired"].write(expected)
    assert same(contents(query), contents(expected))
    assert np.array_equal(query.obsm["X_muport"], model.map_query(make("partly paired", query=True)))
    kind = [{"0": "A", "1": "B", "2": "C"}[str(int(name[1:]) % 3)] for name in query.obs_names]
    assert (query.obs["prediction"] == kind).mean() > 0.95
    with pytest.raises(ValueError, match="loaded without data: pass the data to write to"):
        model.write()


def test_cells_in_one_modality(models):
    query = MuData({"atac": make("paired", query=True, n=40)["atac"].copy()})
    models["paired"].write(query, n_neighbors=None)
    assert list(query.obsm) == ["atac", "X_muport"]
    assert not dict(query.obsp) | dict(query.uns)
    assert (query.obs[["rna:mod_weight", "atac:mod_weight"]] == [0, 1]).all(axis=None)


def test_a_few_cells(models):
    model = models["one modality"]
    for n in (1, 2):
        query = make("one modality", query=True, n=n)
        with pytest.raises(ValueError, match=f"{n} cells are too few for a neighbor graph: pass n_neighbors=None"):
            model.write(query)
        model.write(query, n_neighbors=None)
        assert query.obsm["X_muport"].shape == (n, 9)
    for n in (3, 5, 15):
        query = make("one modality", query=True, n=n)
        model.write(query)
        assert query.obsp["connectivities"].shape == (n, n)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "key is a number": ({"key": 3}, TypeError, "key=3"),
    "key is empty": ({"key": ""}, ValueError, "key=''"),
    "key with a slash": ({"key": "a/b"}, ValueError, "key='a/b'"),
    "key of the input": ({"key": "X_own", "overwrite": True}, ValueError, r"obsm\['X_own'\] is read by the model"),
    "graph name": ({"key_added": 1}, TypeError, "key_added=1"),
    "neighbors": ({"n_neighbors": 1}, ValueError, "n_neighbors=1"),
    "neighbors a float": ({"n_neighbors": 5.5}, ValueError, "n_neighbors=5.5"),
    "threshold": ({"threshold": 1.5}, ValueError, "threshold=1.5"),
    "overwrite": ({"overwrite": "yes"}, TypeError, "overwrite='yes'"),
    "seed": ({"random_state": -1}, ValueError, "random_state=-1"),
}


@pytest.mark.promise("Wrong input is refused with its name and the fix, and the data are unchanged")
@pytest.mark.parametrize("layout", ["one modality", "partly paired"])
def test_wrong_arguments_are_refused_and_nothing_is_written(models, layout, record_property):
    record_property("tries", len(BAD))
    data = make(layout, query=True)
    before = contents(data)
    for arguments, error, message in BAD.values():
        start = time.perf_counter()
        with pytest.raises(error, match=message):
            models[layout].write(data, **arguments)
        assert time.perf_counter() - start < 1
    assert same(before, contents(data))


def test_wrong_data_are_refused_and_nothing_is_written(models):
    model = models["partly paired"]
    data = make("partly paired", query=True)
    with pytest.raises(ValueError, match="is a view.*mudata.copy"):
        model.write(data[:50])
    with pytest.raises(TypeError, match="DataFrame"):
        model.write(data.obs)
    with pytest.raises(ValueError, match="holds which cells are in the modality 'rna'"):
        model.write(data, key="rna", overwrite=True)
    del data["rna"].obsm["X_own"]
    before = contents(data)
    with pytest.raises(KeyError, match="X_own"):
        model.write(data)
    assert same(before, contents(data))
    untrained = make("one modality")
    Integration.setup_anndata(untrained, "X_own", batch_key="batch", labels_key="cell_type")
    with pytest.raises(NotFittedError):
        Integration(untrained).write()


def test_a_column_that_the_model_reads_is_not_overwritten():
    data = make("one modality")
    data.obs = data.obs.rename(columns={"cell_type": "prediction"})
    Integration.setup_anndata(data, "X_own", batch_key="batch", labels_key="prediction")
    model = Integration(data)
    model.train(**TRAIN)
    before = contents(data)
    with pytest.raises(ValueError, match=r"obs\['prediction'\] is read by the model"):
        model.write(overwrite=True)
    assert same(before, contents(data))


def test_a_model_without_labels(models):
    data = make("one modality")
    Integration.setup_anndata(data, "X_own", batch_key="batch")
    model = Integration(data)
    model.train(**TRAIN)
    with pytest.raises(ValueError, match="threshold=0.5 is for labels"):
        model.write(threshold=0.5)
    model.write()
    assert not [c for c in data.obs if c.startswith("prediction")]


@pytest.mark.promise("Names that are taken are refused; with overwrite=True they are replaced")
@pytest.mark.parametrize("where", ["obsm", "obs", "uns", "obsp"])
def test_what_is_there_is_not_overwritten_silently(models, where, record_property):
    record_property("tries", len(WRITTEN[where]))
    model = models["one modality"]
    fresh = make("one modality", query=True)
    model.write(fresh)
    for key in WRITTEN[where]:
        data = make("one modality", query=True)
        graph = sparse.eye_array(data.n_obs).tocsr()
        mine = {"obsm": np.zeros((data.n_obs, 2)), "obs": 0, "uns": {"mine": 1}, "obsp": graph}
        getattr(data, where)[key] = mine[where]
        before = contents(data)
        with pytest.raises(ValueError, match=rf"{where}\['{key}'\] would be overwritten: pass overwrite=True"):
            model.write(data)
        assert same(before, contents(data))
        model.write(data, overwrite=True)
        model.write(data, overwrite=True)
        assert contents(data).keys() == contents(fresh).keys()
        assert np.array_equal(data.obsm["X_muport"], fresh.obsm["X_muport"])
        assert data.uns == fresh.uns


def test_a_graph_beside_another(models):
    model = models["one modality"]
    data = model.adata.copy()
    sc.pp.neighbors(data, use_rep="X_own")
    before = contents(data)
    with pytest.raises(ValueError, match=r"uns\['neighbors'\], obsp\['distances'\].*key_added="):
        model.write(data)
    model.write(data, key_added="muport")
    assert same({k: v for k, v in contents(data).items() if k in before and k[1] != "obs"}, {
        k: v for k, v in before.items() if k[1] != "obs"
    })  # fmt: skip
    sc.tl.umap(data, neighbors_key="muport", maxiter=5)
    sc.tl.leiden(data, neighbors_key="muport", flavor="igraph", n_iterations=2, directed=False)


def test_the_name_of_scanpy_is_the_default(models):
    data, other = make("one modality", query=True), make("one modality", query=True)
    models["one modality"].write(data, key_added="neighbors")
    models["one modality"].write(other)
    assert same(contents(data), contents(other))


def test_a_failure_in_the_middle_leaves_the_data_as_they_were(models, monkeypatch):
    from muport.integration import _written_results

    model = models["one modality"]
    data = make("one modality", query=True)
    data.obs["prediction"] = "mine"
    before = contents(data)
    compute = _written_results.compute_graph
    wrong = {"obsp": {"connectivities": np.zeros((3, 3))}}
    monkeypatch.setattr(_written_results, "compute_graph", lambda *args, **kwargs: compute(*args, **kwargs) | wrong)
    with pytest.raises(ValueError, match="shape"):
        model.write(data, overwrite=True)
    assert same(before, contents(data))
    monkeypatch.undo()
    model.write(data, overwrite=True)
    assert set(data.obs["prediction"]) == {"A", "B", "C"}
