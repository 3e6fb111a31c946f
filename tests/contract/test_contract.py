"""What every model promises, whatever it fits. A model that does not exist yet is skipped."""

from __future__ import annotations

import importlib
import inspect
import random
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

ARGS = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "labels_key": "rna:cell_type", "shared_rep": "X_shared"}


@dataclass(frozen=True)
class Case:
    """A model class, where it is imported from, and how it is trained quickly."""

    module: str
    name: str
    train: dict[str, Any] = field(default_factory=dict)


CASES = {
    "fake": Case("fake_model", "Fake"),
    "Integration": Case(
        "muport.integration",
        "Integration",
        {"max_iter": 3, "accelerator": "cpu", "random_state": 0, "progress": False},
    ),
}


def cells(names: list[str], seed: int, shift: float, batches: list[str]) -> AnnData:
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=len(names))
    batch = rng.integers(len(batches), size=len(names))
    shared = 4 * np.eye(3, 6)[kind] + rng.normal(scale=0.5, size=(len(names), 6)) + shift + 0.5 * batch[:, None]
    adata = AnnData(np.ones((len(names), 2), np.float32), obs=pd.DataFrame(index=names))
    adata.var_names = [f"f{seed}_{i}" for i in range(2)]
    adata.obs["batch"], adata.obs["cell_type"] = np.array(batches)[batch], np.array(["A", "B", "C"])[kind]
    adata.obsm["X_shared"] = shared.astype(np.float32)
    adata.obsm["X_own"] = np.hstack([shared, shared**2])[:, : 8 + seed % 2].astype(np.float32)
    adata.obsm["X_pca"] = adata.obsm["X_shared"]
    return adata


def two_modalities(prefix: str = "", n: int = 150, both: int = 20, batches: tuple[str, ...] = ("b0", "b1")) -> MuData:
    shared = [f"{prefix}s{i}" for i in range(both)]
    rna = cells([f"{prefix}r{i}" for i in range(n - both)] + shared, 0, 0.0, list(batches))
    atac = cells(shared + [f"{prefix}a{i}" for i in range(n - 30 - both)], 1, 1.0, [*batches, "b2"])
    atac.obs["batch"] = np.where(
        atac.obs_names.isin(shared), rna.obs["batch"].reindex(atac.obs_names), atac.obs["batch"]
    )
    return MuData({"rna": rna, "atac": atac})


@pytest.fixture(params=CASES, scope="module")
def case(request, fake) -> Case:
    case = CASES[request.param]
    try:
        importlib.import_module(case.module).__dict__[case.name]
    except (ImportError, KeyError):
        pytest.skip(f"{case.module}.{case.name} does not exist yet")
    return case


@pytest.fixture(scope="module")
def cls(case) -> type:
    return getattr(importlib.import_module(case.module), case.name)


def trained(cls: type, case: Case, mdata: MuData) -> Any:
    cls.setup_mudata(mdata, **ARGS)
    model = cls(mdata)
    model.train(**case.train)
    return model


@pytest.fixture(scope="module")
def data() -> MuData:
    return two_modalities()


@pytest.fixture(scope="module")
def model(cls, case, data) -> Any:
    return trained(cls, case, data)


@pytest.fixture(scope="module")
def latent(model) -> np.ndarray:
    return model.get_latent_representation()


def test_latent_is_rows_of_obs(model, data, latent):
    assert latent.shape == (data.n_obs, 6)
    assert latent.dtype == np.float32
    assert np.isfinite(latent).all()
    data.obsm["X_test"] = latent
    del data.obsm["X_test"]


def test_training_writes_nothing_but_the_setup(cls, case, data):
    mine = two_modalities()
    model = trained(cls, case, mine)
    model.get_latent_representation()
    assert [c for c in mine.obs.columns if not c.startswith("_scvi_")] == []
    assert not mine.obsm.keys() - {"rna", "atac"}
    assert mine.uns.keys() == {"_scvi_uuid", "_scvi_manager_uuid"}
    for name, adata in two_modalities().mod.items():
        pd.testing.assert_frame_equal(mine[name].obs, adata.obs)
        assert mine[name].obsm.keys() == adata.obsm.keys()
        assert all(np.array_equal(mine[name].obsm[k], adata.obsm[k]) for k in adata.obsm)


def test_same_seed_same_latent_and_the_global_generators_stay(cls, case, latent):
    import torch

    def states():
        old = np.random.get_state()[1].tolist()  # noqa: NPY002
        return old, torch.get_rng_state().tolist(), random.getstate()

    mine = two_modalities()
    before = states()
    again = trained(cls, case, mine)
    assert states() == before
    assert np.array_equal(again.get_latent_representation(), latent)


def test_one_way_for_a_cell(model, data, latent):
    assert np.allclose(model.map_query(data.copy()), latent, atol=1e-5)


def test_saved_data(cls, model, latent, tmp_path):
    model.save(tmp_path / "m", save_anndata=True)
    again = cls.load(tmp_path / "m")
    assert again.is_trained_
    assert np.array_equal(again.get_latent_representation(), latent)


def test_given_data(cls, model, data, latent, tmp_path):
    model.save(tmp_path / "m")
    again = cls.load(tmp_path / "m", adata=data.copy(), accelerator="cpu")
    assert np.array_equal(again.get_latent_representation(), latent)
    assert again._model_summary_string == model._model_summary_string


def test_no_data_then_new_cells(cls, model, tmp_path):
    query = two_modalities("q", 60, 7)
    model.save(tmp_path / "m", prefix="p_")
    again = cls.load(tmp_path / "m", adata=False, prefix="p_")
    assert np.array_equal(again.map_query(query), model.map_query(query))


def test_saved_again_is_the_same_file(cls, model, tmp_path):
    model.save(tmp_path / "m")
    cls.load(tmp_path / "m", adata=False).save(tmp_path / "n")
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in "mn")
    assert one == two


@pytest.mark.slow
def test_a_fresh_process_maps_the_same(case, model, tmp_path):
    if case.module == "fake_model":
        pytest.skip("not importable elsewhere")
    query = two_modalities("q", 60, 7)
    model.save(tmp_path / "m")
    query.copy().write(tmp_path / "q.h5mu")
    code = (
        f"import sys, mudata, numpy as np; from {case.module} import {case.name} as M; "
        "z = M.load(sys.argv[1] + '/m', adata=False).map_query(mudata.read_h5mu(sys.argv[1] + '/q.h5mu')); "
        "np.save(sys.argv[1] + '/z.npy', z)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "z.npy"), model.map_query(query))


def test_changed_files_are_refused(cls, model, tmp_path):
    model.save(tmp_path / "m")
    for name in ("model.json", "model.safetensors"):
        content = (tmp_path / "m" / name).read_bytes()
        for spoiled in (b"", content[: len(content) // 2], content[:-9] + b"X" + content[-8:]):
            (tmp_path / "m" / name).write_bytes(spoiled)
            with pytest.raises(ValueError, match=r"model\.(json|safetensors)"):
                cls.load(tmp_path / "m", adata=False)
        (tmp_path / "m" / name).write_bytes(content)
    cls.load(tmp_path / "m", adata=False)


def test_rows_follow_names_without_update(model):
    query = two_modalities("q", 60, 7)
    expected = model.map_query(query)
    query.mod["rna"] = query.mod["rna"][::-1].copy()
    assert np.allclose(model.map_query(query), expected, atol=1e-5)


def test_permuted_cells_permute_the_result(model):
    query = two_modalities("q", 60, 0)
    order = np.random.default_rng(0).permutation(query.n_obs)
    permuted = query[order].copy()
    expected = pd.DataFrame(model.map_query(query), index=query.obs_names)
    assert np.allclose(model.map_query(permuted), expected.loc[permuted.obs_names], atol=1e-4)


QUERIES = {
    "one modality": lambda q: MuData({"rna": q["rna"].copy()}),
    "the other": lambda q: MuData({"atac": q["atac"].copy()}),
    "empty modality": lambda q: MuData({"rna": q["rna"].copy(), "atac": q["atac"][:0].copy()}),
    "view": lambda q: q[3:40],
    "one cell": lambda q: q[:1].copy(),
    "new batch": lambda q: two_modalities("n", 60, 5, ("x0", "b1")),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_queries(model, kind):
    query = QUERIES[kind](two_modalities("q", 60, 7))
    for adata in query.mod.values():
        if not query.is_view:
            del adata.obs["cell_type"]
    view = query.is_view
    z = model.map_query(query)
    assert z.shape == (query.n_obs, 6)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert query.is_view == view
    assert not any(c.startswith("_scvi") for c in query.obs.columns)


def test_collisions_and_missing_batches_are_refused(cls):
    mdata = two_modalities()
    with pytest.raises(ValueError, match=r"paired=False.*20 names"):
        cls.setup_mudata(mdata, **ARGS, paired=False)
    mdata["rna"].obs.loc["r0", "batch"] = np.nan
    with pytest.raises(ValueError, match=r"batch.*1 cells.*r0"):
        cls.setup_mudata(mdata, **ARGS)
    assert "_scvi_batch" not in mdata.obs


def test_anndata(cls, case, tmp_path):
    adata = cells([f"c{i}" for i in range(120)], 2, 0.0, ["b0", "b1"])
    cls.setup_anndata(adata, use_rep="X_pca", labels_key="cell_type")
    model = cls(adata)
    model.train(**case.train)
    z = model.get_latent_representation()
    assert z.shape == (120, 6)
    model.save(tmp_path / "m", save_anndata=True)
    assert np.array_equal(cls.load(tmp_path / "m").get_latent_representation(), z)
    assert model.map_query(MuData({"rna": adata[:30].copy()})).shape == (30, 6)


def test_an_untrained_model_says_so(cls, capsys):
    mdata = two_modalities()
    cls.setup_mudata(mdata, **ARGS)
    model = cls(mdata)
    for call in (model.get_latent_representation, lambda: model.map_query(mdata)):
        with pytest.raises(ValueError, match=r"train\(\)") as caught:
            call()
        assert isinstance(caught.value, AttributeError)
    # scvi-tools evaluates every property when it looks for attributes
    inspect.getmembers(model)
    print(model)
    assert "Not Trained" in capsys.readouterr().out


def test_what_scvi_tools_offers(model, data, capsys):
    assert model.summary_stats.n_batch == 3
    assert model.registry_["model_name"] == type(model).__name__
    assert model.get_from_registry(data, "batch").shape[0] == data.n_obs
    model.view_anndata_setup()
    assert "X_shared" in capsys.readouterr().out
    model.to_device("cpu")
    assert str(model.device) == "cpu"
    assert isinstance(model.history_, dict)


def test_two_models_on_one_object(cls, case, model, data, latent):
    other = two_modalities()
    cls.setup_mudata(other, **ARGS)
    first = cls(other)
    cls.setup_mudata(other, **{**ARGS, "labels_key": None})
    second = cls(other)
    first.train(**case.train)
    assert first.summary_stats.n_labels == 4
    assert second.summary_stats.n_labels == 1
    assert np.array_equal(first.get_latent_representation(), latent)


def test_documentation_is_whole(cls):
    for name, member in inspect.getmembers(cls):
        if name.startswith("_") or not callable(member) or not member.__module__.startswith("muport"):
            continue
        assert member.__doc__, f"{name} has no docstring"
        assert "%(" not in member.__doc__
