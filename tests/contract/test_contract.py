"""What every model promises, whatever it fits. A model that does not exist yet is skipped."""

from __future__ import annotations

import importlib
import inspect
import random
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

SEPARATE = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "batch_key": "batch", "labels_key": "rna:cell_type"}
SHARED = {**SEPARATE, "shared_rep": "X_shared"}
SINGLE = {"use_rep": "X_pca", "batch_key": "batch", "labels_key": "cell_type"}
TIMED = {"time_key": "pseudotime", "batch_key": "batch"}
COHORT = {"sample_key": "sample", "labels_key": "condition"}
QUIET = {"accelerator": "cpu", "random_state": 0, "progress": False}


@dataclass(frozen=True)
class Case:
    """A model class, where it is imported from, how it is set up and trained quickly, and what is expected of it.

    `mudata` and `anndata` are arguments of the set-up methods, `space` is the ``obsm`` key of the working space, and
    `column` one that no cell may miss. `joint` tells that the space is one of all cells, in ``mdata.obsm``. `width` is
    that of the latent, `alone` of one modality's, and `both` the number of cells in two modalities.
    """

    module: str
    name: str
    train: dict[str, Any] = field(default_factory=dict)
    mudata: dict[str, Any] = field(default_factory=lambda: SHARED)
    anndata: dict[str, Any] = field(default_factory=lambda: SINGLE)
    space: str = "X_shared"
    joint: bool = False
    width: int = 6
    n_batch: int = 3
    n_labels: int = 4
    column: str = "batch"
    both: int = 20
    alone: int | None = None

    def data(
        self, prefix: str = "", n: int = 150, both: int | None = None, batches: tuple[str, ...] = ("b0", "b1")
    ) -> MuData:
        """Two modalities, with some cells in both, of which the model takes what it is set up with."""
        return self.completed(two_modalities(prefix, n, self.both if both is None else both, batches))

    def completed(self, data: MuData) -> MuData:
        """Add the joint space, which is computed from all modalities, if the model takes one and it is not there."""
        return with_joint(data) if self.joint and "X_joint" not in data.obsm else data


CASES = {
    "fake": Case("fake_model", "Fake"),
    "timed fake": Case(
        "fake_model",
        "Timed",
        mudata={"use_rep": "X_joint", "labels_key": "rna:cell_type", **TIMED, "sample_key": "sample"},
        anndata={**SINGLE, **TIMED},
        space="X_joint",
        joint=True,
        column="sample",
    ),
    "Integration": Case("muport.integration", "Integration", {"max_iter": 3, **QUIET}),
    "Integration, partly paired": Case(
        "muport.integration",
        "Integration",
        {"max_iter": 3, **QUIET},
        mudata=SEPARATE,
        space="X_own",
        width=17,
        both=80,
        alone=6,
    ),
    "Integration, partly paired with a shared space": Case(
        "muport.integration", "Integration", {"max_iter": 3, **QUIET}, width=23, both=80, alone=6
    ),
    "Integration, without features in common": Case(
        "muport.integration", "Integration", {"max_iter": 3, **QUIET}, mudata=SEPARATE, space="X_own", width=9, alone=6
    ),
    "Velocity": Case(
        "muport.velocity",
        "Velocity",
        {"n_steps": 30, **QUIET},
        mudata={"use_rep": "X_joint", "labels_key": "rna:cell_type", **TIMED},
        anndata={**SINGLE, **TIMED},
        space="X_joint",
        joint=True,
        width=32,
        column="pseudotime",
    ),
    "GMM": Case(
        "muport.gmm",
        "GMM",
        {"k_comps": 2, **QUIET},
        mudata={"use_rep": "X_joint", **COHORT},
        anndata={"use_rep": "X_pca", **COHORT},
        space="X_joint",
        joint=True,
        width=5,
        n_batch=1,
        n_labels=3,
        column="sample",
    ),
}


def cells(names: list[str], seed: int, shift: float, batches: list[str]) -> AnnData:
    rng = np.random.default_rng(seed)
    # by name: a cell has one type in all modalities
    kind = np.array([crc32(name.encode()) % 3 for name in names])
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


def annotate(obs: pd.DataFrame, x: np.ndarray) -> None:
    """Add a time along the first axis, six samples and their two conditions."""
    obs["pseudotime"] = 1 / (1 + np.exp(-x[:, 0] / 2))
    patient = np.arange(len(obs)) % 6
    obs["sample"], obs["condition"] = [f"p{i}" for i in patient], np.array(["ctrl", "stim"])[patient % 2]


def with_joint(mdata: MuData) -> MuData:
    """Write a space of all cells, in which conditions differ a little, and the columns of the cells."""
    frames = [pd.DataFrame(a.obsm["X_shared"], index=a.obs_names) for a in mdata.mod.values()]
    x = pd.concat(frames).groupby(level=0).mean().loc[mdata.obs_names].to_numpy()
    annotate(mdata.obs, x)
    mdata.obsm["X_joint"] = (x + 0.5 * (mdata.obs["condition"] == "stim").to_numpy()[:, None]).astype(np.float32)
    return mdata


@pytest.fixture(params=CASES, scope="module")
def case(request, fake) -> Case:
    case = CASES[request.param]
    try:
        getattr(importlib.import_module(case.module), case.name)
    except (ImportError, AttributeError):
        pytest.skip(f"{case.module}.{case.name} does not exist yet")
    return case


@pytest.fixture(scope="module")
def cls(case) -> type:
    return getattr(importlib.import_module(case.module), case.name)


def trained(cls: type, case: Case, mdata: MuData) -> Any:
    cls.setup_mudata(mdata, **case.mudata)
    model = cls(mdata)
    model.train(**case.train)
    return model


@pytest.fixture(scope="module")
def data(case) -> MuData:
    return case.data()


@pytest.fixture(scope="module")
def model(cls, case, data) -> Any:
    return trained(cls, case, data)


@pytest.fixture(scope="module")
def latent(model) -> np.ndarray:
    return model.get_latent_representation()


def test_latent_is_rows_of_obs(case, model, data, latent):
    assert latent.shape == (data.n_obs, case.width)
    assert latent.dtype == np.float32
    assert np.isfinite(latent).all()
    data.obsm["X_test"] = latent
    del data.obsm["X_test"]


@pytest.mark.promise("A call changes nothing in the data of the user that it was not asked to write")
def test_training_writes_nothing_but_the_setup(cls, case):
    mine, fresh = case.data(), case.data()
    model = trained(cls, case, mine)
    model.get_latent_representation()
    assert mine.uns.keys() == {"_scvi_uuid", "_scvi_manager_uuid"}
    mine.obs = mine.obs[[c for c in mine.obs.columns if not c.startswith("_scvi_")]]
    for mine_part, part in [(mine, fresh), *((mine[m], fresh[m]) for m in fresh.mod)]:
        pd.testing.assert_frame_equal(mine_part.obs, part.obs)
        assert mine_part.obsm.keys() == part.obsm.keys()
        assert all(np.array_equal(mine_part.obsm[k], part.obsm[k]) for k in part.obsm)


@pytest.mark.promise("The same seed gives the same result, bit by bit, and global generators stay as they were")
def test_same_seed_same_latent_and_the_global_generators_stay(cls, case, latent):
    import torch

    def states():
        old = np.random.get_state()[1].tolist()  # noqa: NPY002
        return old, torch.get_rng_state().tolist(), random.getstate()

    mine = case.data()
    before = states()
    again = trained(cls, case, mine)
    assert states() == before
    assert np.array_equal(again.get_latent_representation(), latent)


def test_one_way_for_a_cell(model, data, latent):
    assert np.allclose(model.map_query(data.copy()), latent, atol=1e-5)


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
def test_saved_data(cls, model, latent, tmp_path):
    model.save(tmp_path / "m", save_anndata=True)
    again = cls.load(tmp_path / "m")
    assert again.is_trained_
    assert np.array_equal(again.get_latent_representation(), latent)


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
def test_given_data(cls, model, data, latent, tmp_path):
    model.save(tmp_path / "m")
    again = cls.load(tmp_path / "m", adata=data.copy(), accelerator="cpu")
    assert np.array_equal(again.get_latent_representation(), latent)
    assert again._model_summary_string == model._model_summary_string


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
def test_no_data_then_new_cells(cls, case, model, tmp_path):
    query = case.data("q", 60, 7)
    model.save(tmp_path / "m", prefix="p_")
    again = cls.load(tmp_path / "m", adata=False, prefix="p_")
    assert np.array_equal(again.map_query(query), model.map_query(query))


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
def test_saved_again_is_the_same_file(cls, model, tmp_path):
    model.save(tmp_path / "m")
    cls.load(tmp_path / "m", adata=False).save(tmp_path / "n")
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in "mn")
    assert one == two


@pytest.mark.promise("A loaded model gives the results of the saved one, bit by bit")
@pytest.mark.slow
def test_a_fresh_process_maps_the_same(case, model, tmp_path):
    if case.module == "fake_model":
        pytest.skip("not importable elsewhere")
    query = case.data("q", 60, 7)
    model.save(tmp_path / "m")
    query.copy().write(tmp_path / "q.h5mu")
    code = (
        f"import sys, mudata, numpy as np; from {case.module} import {case.name} as M; "
        "z = M.load(sys.argv[1] + '/m', adata=False).map_query(mudata.read_h5mu(sys.argv[1] + '/q.h5mu')); "
        "np.save(sys.argv[1] + '/z.npy', z)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "z.npy"), model.map_query(query))


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
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


@pytest.mark.promise("Rows in another order give the same answer")
def test_rows_follow_names_without_update(case, model):
    query = case.data("q", 60, 7)
    expected = model.map_query(query)
    query.mod["rna"] = query.mod["rna"][::-1].copy()
    assert np.allclose(model.map_query(query), expected, atol=1e-5)


@pytest.mark.promise("Rows in another order give the same answer")
def test_permuted_cells_permute_the_result(case, model):
    query = case.data("q", 60, 0)
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
def test_queries(case, model, kind):
    query = two_modalities("q", 60, 7)
    for adata in query.mod.values():
        del adata.obs["cell_type"]
    query = case.completed(QUERIES[kind](case.completed(query)))
    view = query.is_view
    if not view and "condition" in query.obs:
        del query.obs["condition"]
    columns = list(query.obs.columns)
    z = model.map_query(query)
    assert z.shape == (query.n_obs, case.width)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert query.is_view == view
    assert list(query.obs.columns) == columns


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
def test_collisions_are_refused(cls, case):
    if case.joint:
        pytest.skip("a joint space has one row per name")
    with pytest.raises(ValueError, match=rf"paired=False.*{case.both} names"):
        cls.setup_mudata(case.data(), **case.mudata, paired=False)


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
def test_missing_values_are_refused(cls, case):
    mdata = case.data()
    for obs in (mdata.obs, mdata["rna"].obs):
        if case.column in obs:
            obs.loc["r0", case.column] = np.nan
    with pytest.raises(ValueError, match=rf"{case.column}.*1 cells.*r0"):
        cls.setup_mudata(mdata, **case.mudata)
    assert not any(c.startswith("_scvi") for c in mdata.obs.columns)


def test_anndata(cls, case, tmp_path):
    adata = cells([f"c{i}" for i in range(120)], 2, 0.0, ["b0", "b1"])
    annotate(adata.obs, adata.obsm["X_pca"])
    cls.setup_anndata(adata, **case.anndata)
    model = cls(adata)
    model.train(**case.train)
    z = model.get_latent_representation()
    assert z.shape == (120, case.alone or case.width)
    model.save(tmp_path / "m", save_anndata=True)
    assert np.array_equal(cls.load(tmp_path / "m").get_latent_representation(), z)
    assert model.map_query(MuData({"rna": adata[:30].copy()})).shape == (30, z.shape[1])


def test_an_untrained_model_says_so(cls, case, capsys):
    mdata = case.data()
    cls.setup_mudata(mdata, **case.mudata)
    model = cls(mdata)
    for call in (model.get_latent_representation, lambda: model.map_query(mdata)):
        with pytest.raises(ValueError, match=r"train\(\)") as caught:
            call()
        assert isinstance(caught.value, AttributeError)
    # scvi-tools evaluates every property when it looks for attributes
    inspect.getmembers(model)
    print(model)
    assert "Not Trained" in capsys.readouterr().out


def test_what_scvi_tools_offers(case, model, data, capsys):
    assert model.summary_stats.n_batch == case.n_batch
    assert model.registry_["model_name"] == type(model).__name__
    assert model.get_from_registry(data, "batch").shape[0] == data.n_obs
    model.view_anndata_setup()
    assert case.space in capsys.readouterr().out
    model.to_device("cpu")
    assert str(model.device) == "cpu"
    assert isinstance(model.history_, dict)


def test_two_models_on_one_object(cls, case, model, data, latent):
    other = case.data()
    cls.setup_mudata(other, **case.mudata)
    first = cls(other)
    cls.setup_mudata(other, **{**case.mudata, "labels_key": None})
    second = cls(other)
    first.train(**case.train)
    assert first.summary_stats.n_labels == case.n_labels
    assert second.summary_stats.n_labels == 1
    assert np.array_equal(first.get_latent_representation(), latent)


def test_documentation_is_whole(cls):
    for name, member in inspect.getmembers(cls):
        if name.startswith("_") or not callable(member) or not member.__module__.startswith("muport"):
            continue
        assert member.__doc__, f"{name} has no docstring"
        assert "%(" not in member.__doc__
