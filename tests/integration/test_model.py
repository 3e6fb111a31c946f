"""The model: queries, labels, references and bad inputs."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport import Integration

CPU = {"accelerator": "cpu", "progress": False}


@pytest.fixture(scope="module")
def sim(kit):
    return kit.draw(n=500, n_batches=3, seed=3)


@pytest.fixture(scope="module")
def adata(kit, sim) -> AnnData:
    adata = kit.as_anndata(sim)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs_names[::3], "cell_type"] = "unknown"
    return adata


@pytest.fixture(scope="module")
def model(kit, adata):
    return kit.model_of(adata, labels_key="cell_type")


@pytest.fixture(scope="module")
def latent(model) -> np.ndarray:
    return model.get_latent_representation()


def twin(sim, names: str = "q", batch: str | None = None, shift: float = 0.0) -> AnnData:
    adata = AnnData(np.ones((len(sim.x), 1), np.float32))
    adata.obs_names = [f"{names}{i}" for i in range(len(sim.x))]
    adata.obs["batch"] = [batch or f"b{b}" for b in sim.batch]
    adata.obsm["X_pca"] = sim.x + np.float32(shift)
    return adata


def test_training_cells_as_a_query(model, adata, latent):
    assert np.array_equal(model.map_query(adata.copy()), latent)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(40, 90), slice(None, None, 7)], ids=str)
def test_some_cells_have_the_rows_they_had(model, adata, latent, rows):
    assert np.abs(model.map_query(adata[rows].copy()) - latent[rows]).max() <= 1e-5
    assert np.abs(model.get_latent_representation(adata[rows]) - latent[rows]).max() <= 1e-5


def test_known_and_new_batches_in_one_query(model, sim, latent):
    known, new = twin(sim), twin(sim, "n", "new", 2.0)
    both = AnnData(
        np.ones((2 * len(sim.x), 1), np.float32), obs=pd.concat([known.obs, new.obs]),
        obsm={"X_pca": np.vstack([known.obsm["X_pca"], new.obsm["X_pca"]])},
    )  # fmt: skip
    z = model.map_query(both)
    assert np.abs(z[: len(sim.x)] - latent).max() <= 1e-5
    assert np.abs(z[len(sim.x) :] - model.map_query(new)).max() <= 1e-5


def test_a_new_batch_with_a_known_shift_is_brought_back(kit, sim, latent):
    way = np.zeros(8)
    way[1:4] = 3.0
    plain = kit.model_of(kit.as_anndata(sim), sharpen=0.0)
    z = plain.get_latent_representation()
    query = twin(type(sim)(z, sim.batch, sim.kind), batch="new")
    query.obsm["X_pca"] = (z + way).astype(np.float32)
    error = np.linalg.norm(plain.map_query(query) - z, axis=1)
    assert error.mean() < 0.2 * np.linalg.norm(way)
    query.obsm["X_pca"] = z
    assert np.abs(plain.map_query(query) - z).max() <= 1e-4 * sim.rms


def test_mapping_leaves_the_model_as_it_is(model, sim, latent):
    model.map_query(twin(sim, batch="new", shift=3.0))
    assert np.array_equal(model.get_latent_representation(), latent)


def test_no_strength_is_the_input(kit, sim):
    query = twin(sim, batch="new", shift=3.0)
    off = kit.model_of(kit.as_anndata(sim), strength=0.0)
    assert np.array_equal(off.get_latent_representation(), sim.x)
    assert np.array_equal(off.map_query(query), query.obsm["X_pca"])


def test_no_supervision_is_no_labels(kit, sim):
    with_labels = kit.model_of(kit.as_anndata(sim), labels_key="cell_type", supervision=0.0)
    without = kit.model_of(kit.as_anndata(sim))
    assert np.array_equal(with_labels.get_latent_representation(), without.get_latent_representation())


@pytest.mark.parametrize("reference", ["largest", "b2"])
def test_the_reference_stays(kit, sim, reference):
    z = kit.model_of(kit.as_anndata(sim), reference=reference, sharpen=0.0).get_latent_representation()
    fixed = int(np.bincount(sim.batch).argmax()) if reference == "largest" else 2
    own = sim.batch == fixed
    assert np.array_equal(z[own], sim.x[own])
    assert np.linalg.norm((z - sim.x)[~own], axis=1).min() > 0.5
    for b in {0, 1, 2} - {fixed}:
        gap = np.linalg.norm(z[sim.batch == b].mean(0) - z[own].mean(0))
        assert gap < 0.3 * np.linalg.norm(sim.x[sim.batch == b].mean(0) - sim.x[own].mean(0))


def unpaired(kit, both: int = 0, noise: float = 0.7) -> tuple[MuData, np.ndarray]:
    """RNA and ATAC cells in one space, ATAC moved; `both` names are in the two."""
    sim = kit.draw(n=500, n_batches=2, noise=noise, seed=5)
    rna, atac = (kit.as_anndata(sim[sim.batch == b], p) for b, p in ((0, "r"), (1, "a")))
    for part in (rna, atac):
        part.obs["batch"] = "lane"
        part.obsm["X_own"] = np.hstack([part.obsm["X_pca"], part.obsm["X_pca"] ** 2])
    atac.obs_names = [*rna.obs_names[:both], *atac.obs_names[both:]]
    del atac.obs["cell_type"]
    return MuData({"rna": rna, "atac": atac}), sim.kind[sim.batch == 1]


def integrated(mdata: MuData, **hyperparameters) -> Integration:
    Integration.setup_mudata(
        mdata, {"rna": "X_own", "atac": "X_own"}, "batch", labels_key="rna:cell_type", shared_rep="X_pca"
    )
    model = Integration(mdata, **hyperparameters)
    model.train(**CPU)
    return model


def test_a_modality_can_be_the_reference(kit):
    mdata, _ = unpaired(kit)
    z = pd.DataFrame(integrated(mdata, reference="rna", sharpen=0.0).get_latent_representation(), mdata.obs_names)
    assert np.array_equal(z.loc[mdata["rna"].obs_names], mdata["rna"].obsm["X_pca"])
    assert np.linalg.norm(z.loc[mdata["atac"].obs_names] - mdata["atac"].obsm["X_pca"], axis=1).min() > 0.5


def test_labels_are_transferred_from_rna_to_atac(kit):
    mdata, truth = unpaired(kit, both=20)
    before = mdata["rna"].obs["cell_type"].copy()
    model = integrated(mdata)
    labels = model.predict()
    assert labels.index.equals(mdata.obs_names)
    assert labels.notna().all()
    assert (labels[mdata["atac"].obs_names].astype(str).to_numpy() == [f"T{t}" for t in truth]).mean() > 0.9
    soft = model.predict(soft=True)
    assert np.array_equal(soft.idxmax(axis=1), labels.astype(str))
    assert np.allclose(soft.sum(axis=1), 1, atol=1e-5)
    pd.testing.assert_series_equal(mdata["rna"].obs["cell_type"], before)
    assert "cell_type" not in mdata.obs


def test_predictions_follow_names(model, adata):
    all_cells = model.predict(soft=True)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    turned = model.predict(soft=True, mdata=adata[order].copy())
    assert turned.index.equals(adata.obs_names[order])
    assert np.abs(turned.loc[all_cells.index] - all_cells).max(axis=None) <= 1e-4
    part = model.predict(soft=True, mdata=adata[:70].copy())
    assert np.abs(part - all_cells.iloc[:70]).max(axis=None) <= 1e-4


def test_a_cell_in_two_modalities_does_not_vote_for_itself(kit):
    """Labels drawn at random cannot be predicted, unless a cell's other measurement votes for it."""
    sim = kit.draw(n=300, n_batches=1, shift=0, seed=6)
    rna = kit.as_anndata(sim)
    rna.obs["cell_type"] = np.random.default_rng(0).choice(list("ABCDEFGHIJ"), size=300)
    atac = rna.copy()
    atac.obsm["X_pca"] = atac.obsm["X_pca"] + np.float32(0.01) * sim.x
    mdata = MuData({"rna": rna, "atac": atac[:, :0].copy()})
    Integration.setup_mudata(mdata, None, "batch", labels_key="cell_type", shared_rep="X_pca")
    model = Integration(mdata)
    model.train(**CPU)
    assert (model.predict().astype(str) == rna.obs["cell_type"]).mean() < 0.2


def test_rejection(model, adata):
    soft = model.predict(soft=True)
    confidence = soft.max(axis=1)
    for threshold in (0.0, float(confidence.median()), 1.0):
        labels = model.predict(threshold=threshold)
        assert ((labels == "unknown") == (confidence < threshold)).all()
        assert len(labels) == adata.n_obs
    assert labels.name == "cell_type"
    assert isinstance(model.predict().dtype, pd.CategoricalDtype)
    assert "unknown" not in set(model.predict())


def keep(adata: AnnData, rows: int) -> AnnData:
    adata.obs["cell_type"] = np.where(np.arange(adata.n_obs) < rows, adata.obs["cell_type"].astype(str), "unknown")
    return adata


@pytest.mark.parametrize("labeled", [1, 500])
def test_one_labeled_cell_and_all(kit, sim, labeled):
    model = kit.model_of(keep(kit.as_anndata(sim), labeled), labels_key="cell_type")
    p = model.predict(soft=True)
    assert p.shape == (500, 1 if labeled == 1 else 5)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    if labeled == 500:
        assert (model.predict().astype(str) == [f"T{t}" for t in sim.kind]).mean() > 0.95


def test_no_labeled_cell(kit, sim):
    model = kit.model_of(keep(kit.as_anndata(sim), 0), labels_key="cell_type")
    assert np.isfinite(model.get_latent_representation()).all()
    with pytest.raises(ValueError, match=r"no labels.*labels_key='cell_type'"):
        model.predict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 1.3}, r"strength=1\.3"),
        ({"sharpen": "a"}, "sharpen='a'"),
        ({"projector": float("nan")}, "projector=nan"),
        ({"reference": "b9"}, "reference='b9'.*'b0', 'b1', 'b2'"),
        ({"algorithm": "magic"}, "algorithm='magic'.*'shared'"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_bad_settings(adata, settings, message):
    mine = adata.copy()
    Integration.setup_anndata(mine, "X_pca", "batch")
    began = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        Integration(mine, **settings)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "3"], ids=repr)
def test_bad_max_iter(adata, value):
    mine = adata.copy()
    Integration.setup_anndata(mine, "X_pca", "batch")
    model = Integration(mine)
    with pytest.raises(ValueError, match="max_iter=.*at least 1"):
        model.train(max_iter=value, **CPU)
    assert not model.is_trained_


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"threshold": 2}, "a number from 0 to 1"),
        ({"threshold": -0.1}, "a number from 0 to 1"),
        ({"threshold": float("nan")}, "a number from 0 to 1"),
        ({"threshold": "x"}, "a number from 0 to 1"),
        ({"soft": True, "threshold": 0.5}, "soft=False"),
    ],
    ids=str,
)
def test_bad_threshold(model, asked, message):
    with pytest.raises(ValueError, match=f"threshold=.*{message}"):
        model.predict(**asked)


def test_the_first_argument_is_the_data(model):
    soft = model.predict(model.adata, [3, 1], True)
    assert soft.equals(model.predict(soft=True).iloc[[3, 1]])
    assert soft.index.equals(model.predict(adata=model.adata, indices=list(soft.index)).index)
    latent = model.get_latent_representation(mdata=model.adata, indices=np.arange(model.adata.n_obs) < 2)
    assert np.array_equal(latent, model.get_latent_representation()[:2])
    with pytest.raises(TypeError, match="first argument is the data, .* not True"):
        model.predict(True)
    with pytest.raises(TypeError, match="passed twice"):
        model.predict(model.adata, mdata=model.adata, adata=model.adata)


def test_no_labels_set_up(kit, sim):
    model = kit.model_of(kit.as_anndata(sim))
    with pytest.raises(ValueError, match="labels_key=None"):
        model.predict()


def narrow(query: AnnData) -> None:
    query.obsm["X_pca"] = query.obsm["X_pca"][:, :5]


def keyless(query: AnnData) -> None:
    del query.obsm["X_pca"]


def batchless(query: AnnData) -> None:
    del query.obs["batch"]


def holey(query: AnnData) -> None:
    query.obsm["X_pca"][3, 2] = np.nan


BAD_QUERIES = {
    "other width": (narrow, ValueError, "5.*8|8.*5"),
    "missing obsm key": (keyless, KeyError, "X_pca"),
    "missing batch": (batchless, KeyError, "batch"),
    "NaN": (holey, ValueError, "X_pca"),
}


@pytest.mark.parametrize("batch", [None, "new"])
@pytest.mark.parametrize("kind", BAD_QUERIES)
def test_bad_queries(model, sim, kind, batch):
    spoil, error, message = BAD_QUERIES[kind]
    query = twin(sim[:50], batch=batch)
    spoil(query)
    keys, obs = set(query.obsm), query.obs.copy()
    began = time.perf_counter()
    with pytest.raises(error, match=message):
        model.map_query(query)
    assert time.perf_counter() - began < 1
    assert set(query.obsm) == keys
    pd.testing.assert_frame_equal(query.obs, obs)


def test_not_trained(adata):
    mine = adata.copy()
    Integration.setup_anndata(mine, "X_pca", "batch", labels_key="cell_type")
    with pytest.raises(ValueError, match=r"train\(\)"):
        Integration(mine).predict()


@pytest.mark.parametrize("key", ["batch", None])
def test_one_batch_is_the_input(kit, sim, key):
    mine = kit.as_anndata(sim)
    mine.obs["batch"] = "only"
    Integration.setup_anndata(mine, "X_pca", batch_key=key)
    model = Integration(mine)
    model.train(**CPU)
    assert model.metrics_["evidence"] == 0
    assert np.array_equal(model.get_latent_representation(), sim.x)


@pytest.mark.parametrize("n", [1, 2])
def test_a_tiny_batch(kit, sim, n):
    mine = kit.as_anndata(sim)
    mine.obs["batch"] = np.where(np.arange(500) < n, "tiny", mine.obs["batch"].astype(str))
    z = kit.model_of(mine, labels_key="cell_type").get_latent_representation()
    assert np.isfinite(z).all()
    assert np.linalg.norm(z[:n] - sim.x[:n], axis=1).max() < 3 * sim.rms


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_a_constant_representation_stays(kit, sim, value):
    mine = kit.as_anndata(sim)
    mine.obsm["X_pca"] = np.full((500, 8), value, np.float32)
    model = kit.model_of(mine, labels_key="cell_type")
    assert np.array_equal(model.get_latent_representation(), mine.obsm["X_pca"])
    assert np.isfinite(model.predict(soft=True)).all(axis=None)
    assert all(np.isfinite(v) for v in model.metrics_.values())


@pytest.mark.parametrize("n", [2, 3, 5])
def test_hardly_any_cells(kit, sim, n):
    few = type(sim)(sim.x[:n], np.arange(n) % 2, sim.kind[:n])
    model = kit.model_of(kit.as_anndata(few), labels_key="cell_type")
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.predict(soft=True).shape[0] == n


def test_one_coordinate(kit, sim):
    thin = type(sim)(sim.x[:, :1].copy(), sim.batch, sim.kind)
    assert np.isfinite(kit.model_of(kit.as_anndata(thin)).get_latent_representation()).all()


def test_a_view_stays_a_view(model, adata, latent):
    query = adata[::5]
    assert np.abs(model.map_query(query) - latent[::5]).max() <= 1e-5
    assert query.is_view


def test_the_object_is_as_it_was(kit, adata):
    mine, columns = adata.copy(), ["batch", "cell_type"]
    model = kit.model_of(mine, labels_key="cell_type")
    model.predict()
    model.get_latent_representation()
    assert [c for c in mine.obs if not c.startswith("_scvi_")] == columns
    pd.testing.assert_frame_equal(mine.obs[columns], adata.obs[columns])
    assert set(mine.obsm) == set(adata.obsm)
    assert np.array_equal(mine.obsm["X_pca"], adata.obsm["X_pca"])


def test_metrics_are_reported(model):
    assert model.metrics_.keys() >= {"mix", "overlap", "strain", "trustworthiness", "iteration", "transported_mass"}
    assert model.metrics_.keys() >= {"move", "neighbors_kept", "evidence_left", "batch_variance", "batch_variance_left"}
    assert 0 < model.metrics_["transported_mass"] <= 1 + 1e-6
    assert len(model.history_["theta"]) == model.metrics_["iteration"]


def test_a_saved_model_predicts_and_maps_the_same(model, adata, sim, latent, tmp_path):
    model.save(tmp_path / "m")
    again = Integration.load(tmp_path / "m", adata=adata.copy(), accelerator="cpu")
    assert np.array_equal(again.get_latent_representation(), latent)
    pd.testing.assert_frame_equal(again.predict(soft=True), model.predict(soft=True))
    query = twin(sim[:200], batch="new", shift=2.0)
    assert np.array_equal(again.map_query(query), model.map_query(query))
    assert again.metrics_ == model.metrics_


def test_hyperparameters_of_numpy_types_can_be_saved(kit, sim, tmp_path):
    model = kit.model_of(kit.as_anndata(sim[:100]), strength=np.float32(0.25), sharpen=np.int64(0))
    model.save(tmp_path / "m")
    again = Integration.load(tmp_path / "m", adata=False)
    assert again._hyperparameters == model._hyperparameters


@pytest.mark.parametrize("reference", ["auto", "largest"])
def test_many_rows_take_the_centroid_path(kit, monkeypatch, reference):
    """If the sample has all cells, the result is that of the fit in memory."""
    mdata, _ = unpaired(kit)
    in_memory = integrated(mdata, reference=reference)
    monkeypatch.setattr("muport.integration._model._MAX_ROWS", 100)
    sampled = integrated(mdata, reference=reference)
    assert sampled.metrics_["n_sampled"] == mdata.n_obs
    assert "n_sampled" not in in_memory.metrics_
    assert np.array_equal(sampled.get_latent_representation(), in_memory.get_latent_representation())
