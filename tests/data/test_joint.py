"""A space of all cells: one matrix of mdata.obsm, or modalities side by side; and the columns of later models."""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import Setup, read_rows

COLUMNS = {"time_key": "day", "spatial_key": "region", "sample_key": "donor", "weight_key": "weight"}


@pytest.fixture
def timed(fake) -> type:
    return sys.modules["fake_model"].Timed


@pytest.fixture
def joint(mdata) -> MuData:
    """49 cells; a joint space and each column at the top, but `day`, which the modalities hold."""
    rng = np.random.default_rng(5)
    n = mdata.n_obs
    mdata.obsm["X_joint"] = rng.normal(size=(n, 4)).astype(np.float32)
    mdata.obs["region"] = rng.integers(3, size=n) + 0.5
    mdata.obs["donor"] = pd.Categorical(np.array(["p1", "p2", "p10"])[rng.integers(3, size=n)])
    mdata.obs["weight"] = rng.random(n)
    for adata in mdata.mod.values():
        adata.obs["day"] = pd.Categorical(["4" if name.endswith("0") else "2" for name in adata.obs_names])
    return mdata


@pytest.fixture
def paired() -> MuData:
    """30 cells in two modalities, in different orders."""
    names = np.array([f"c{i}" for i in range(30)])
    rng = np.random.default_rng(0)
    mods = {}
    for name, order in {"rna": np.arange(30), "atac": rng.permutation(30)}.items():
        adata = AnnData(np.ones((30, 2)), obs=pd.DataFrame(index=names[order]))
        adata.var_names = [f"{name}{i}" for i in range(2)]
        adata.obsm["X_own"] = rng.normal(size=(30, 3 if name == "rna" else 2))
        adata.obs["donor"] = [f"p{i % 3}" for i in order]
        mods[name] = adata
    return MuData(mods)


def test_joint_space_is_one_row_per_cell(joint):
    rows = read_rows(joint, Setup("X_joint"))
    assert rows.modalities == ("joint",)
    assert rows.groups == rows.batches == ("b0", "b1", "b2")
    assert np.array_equal(rows.x, joint.obsm["X_joint"])
    assert np.array_equal(rows.cell, np.arange(49))
    assert rows.own["joint"].base is not None
    assert np.shares_memory(rows.own["joint"], rows.x)
    assert (rows.to_cells(rows.x) == joint.obsm["X_joint"]).all()
    assert rows.n_paired == 0
    assert rows.summary() == "49 cells (joint 49), 3 batches, 0 cells in 0 labels"
    assert rows.time is rows.spatial is rows.sample is rows.weight is None


def test_columns_of_cells(joint):
    rows = read_rows(joint, Setup("X_joint", **COLUMNS))
    assert rows.time.dtype == rows.weight.dtype == np.float64
    assert rows.time.tolist() == [4.0 if n.endswith("0") else 2.0 for n in joint.obs_names]
    assert rows.weight.tolist() == joint.obs["weight"].tolist()
    assert rows.spatials == ("0.5", "1.5", "2.5")
    assert (np.array(rows.spatials)[rows.spatial].astype(float) == joint.obs["region"]).all()
    assert rows.samples == ("p1", "p10", "p2")
    assert (np.array(rows.samples)[rows.sample] == joint.obs["donor"]).all()
    assert rows.summary().endswith("labels, 3 samples, time 2 to 4")


def test_columns_are_of_cells_where_rows_are_of_modalities(joint):
    rows = read_rows(joint, Setup(None, shared_rep="X_shared", **COLUMNS))
    assert len(rows.x) == 50
    assert len(rows.time) == len(rows.sample) == len(rows.spatial) == len(rows.weight) == 49


def test_masks_of_modalities_are_no_space(joint):
    assert joint.obsm["rna"].dtype == bool
    for key in ("rna", "X_wnn"):
        with pytest.raises(KeyError, match=rf"use_rep='{key}' is neither in mdata.obsm nor.*X_own"):
            read_rows(joint, Setup(key))


def test_the_only_modality_comes_before_the_top(joint):
    single = MuData({"rna": joint["rna"].copy()})
    single.obsm["X_own"] = np.zeros((30, 2))
    single.obsm["X_joint"] = np.ones((30, 2))
    assert read_rows(single, Setup("X_own")).modalities == ("rna",)
    assert read_rows(single, Setup("X_own"), modalities=("joint",)).modalities == ("joint",)
    assert read_rows(single, Setup("X_joint")).modalities == ("joint",)


def test_new_cells_bring_the_joint_space(joint):
    setup = Setup("X_joint", batch_key=None)
    rna = MuData({"rna": joint["rna"].copy()})
    with pytest.raises(KeyError, match=r"use_rep='X_joint' is not in mdata.obsm, which has \[\]"):
        read_rows(rna, setup, modalities=("joint",))
    rna.obsm["X_joint"] = np.ones((30, 4))
    assert read_rows(rna, setup, modalities=("joint",)).modalities == ("joint",)
    plain = AnnData(np.ones((30, 1)), obsm={"X_joint": np.ones((30, 4))})
    assert read_rows(plain, setup, modalities=("joint",)).x.shape == (30, 4)


def test_new_cells_need_less(joint):
    setup = Setup("X_joint", batch_key=None, **COLUMNS)
    new = AnnData(np.ones((5, 1)), obsm={"X_joint": np.ones((5, 4))})
    for here, missing in (("donor", "day"), ("day", "donor")):
        new.obs = pd.DataFrame({here: range(5)}, index=new.obs_names)
        with pytest.raises(KeyError, match=missing):
            read_rows(new, setup, modalities=("joint",))
    rows = read_rows(new[:, :], setup, modalities=("joint",), require_sample=False)
    assert rows.time.tolist() == list(range(5))
    assert rows.sample is rows.spatial is rows.weight is None
    del new.obs["day"]
    assert read_rows(new, setup, modalities=("joint",), require_time=False, require_sample=False).time is None
    with pytest.raises(KeyError, match="region"):
        read_rows(
            AnnData(np.ones((5, 1)), obs=new.obs.assign(day=1, donor=1), obsm={"X_joint": np.ones((5, 4))}), setup
        )


def test_side_by_side_matches_by_name(paired):
    rows = read_rows(paired, Setup("X_own", batch_key=None, sample_key="donor", concatenate=True))
    frames = [pd.DataFrame(a.obsm["X_own"], index=a.obs_names).loc[paired.obs_names] for a in paired.mod.values()]
    assert np.array_equal(rows.x, np.hstack(frames).astype(np.float32))
    assert rows.modalities == ("joint",)
    assert rows.groups == ("all",)
    assert np.shares_memory(rows.own["joint"], rows.x)
    assert np.array_equal(rows.cell, np.arange(30))
    swapped = Setup({"atac": "X_own", "rna": "X_own"}, batch_key=None, concatenate=True)
    assert np.array_equal(read_rows(paired, swapped).x, rows.x[:, [3, 4, 0, 1, 2]])
    one = Setup({"rna": "X_own"}, batch_key=None, concatenate=True)
    assert read_rows(paired, one).modalities == ("rna",)


def test_side_by_side_needs_every_cell_in_all(paired, mdata):
    setup = Setup({"rna": "X_own", "atac": "X_own"}, concatenate=True)
    with pytest.raises(ValueError, match=r"side by side.*48 cells are not in every"):
        read_rows(mdata, setup)
    setup = Setup({"rna": "X_own", "atac": "X_own"}, batch_key=None, concatenate=True)
    with pytest.raises(KeyError, match="'atac'"):
        read_rows(MuData({"rna": paired["rna"].copy()}), setup, modalities=("rna", "atac"))
    with pytest.raises(ValueError, match="differ: give shared_rep"):
        read_rows(paired, Setup({"rna": "X_own", "atac": "X_own"}, batch_key=None))
    with pytest.raises(TypeError, match="concatenate='yes'"):
        Setup("X_own", concatenate="yes")


def test_registered_as_scvi_tools_does(timed, joint):
    timed.setup_mudata(joint, batch_key="batch", **COLUMNS)
    model = timed(joint)
    assert sorted(c for c in joint.obs if c.startswith("_scvi")) == [
        "_scvi_batch", "_scvi_labels", "_scvi_sample", "_scvi_spatial", "_scvi_time", "_scvi_weight",
    ]  # fmt: skip
    assert model.summary_stats.n_rep_joint == 4
    assert model.summary_stats.n_sample == model.summary_stats.n_spatial == 3
    assert joint.obs["_scvi_time"].dtype == np.float64
    assert set(model.get_from_registry(joint, "time").ravel()) == {2, 4}
    assert model.adata_manager.get_state_registry("time").original_key == "day"
    item = model.adata_manager.create_torch_dataset()[np.arange(49)]
    assert np.allclose(item["rep_joint"].numpy(), joint.obsm["X_joint"])
    assert item["time"].ravel().tolist() == joint.obs["_scvi_time"].tolist()
    assert "rep_joint_mask" not in item
    model.view_anndata_setup()


def test_columns_that_are_not_asked_for_are_not_written(fake, timed, joint):
    timed.setup_mudata(joint)
    assert sorted(c for c in joint.obs if c.startswith("_scvi")) == ["_scvi_batch", "_scvi_labels"]


@pytest.mark.parametrize("kind", ["joint", "side by side"])
def test_train_save_load_and_query(timed, joint, paired, tmp_path, kind):
    if kind == "joint":
        data, args = joint, {"use_rep": "X_joint", "batch_key": "batch", **COLUMNS}
    else:
        data, args = paired, {"use_rep": "X_own", "sample_key": "donor", "concatenate": True}
    timed.setup_mudata(data, **args)
    model = timed(data)
    model.train()
    z = model.get_latent_representation()
    data.obsm["X_integration"] = z
    model.save(tmp_path / "m", save_anndata=True)
    assert np.array_equal(timed.load(tmp_path / "m").get_latent_representation(), z)
    assert np.array_equal(timed.load(tmp_path / "m", adata=data.copy()).get_latent_representation(), z)
    assert np.array_equal(timed.load(tmp_path / "m", adata=False).map_query(data[:20]), z[:20])
    # a latent written to mdata.obsm is the next model's space
    timed.setup_mudata(data, use_rep="X_integration")
    assert np.array_equal(read_rows(data, Setup("X_integration", batch_key=None)).x, z)


def test_transfer_to_a_space_of_another_kind(timed, joint, fingerprint):
    timed.setup_mudata(joint)
    registry = timed(joint).registry_
    rna = MuData({"rna": joint["rna"].copy()})
    rna["rna"].obsm["X_joint"] = np.ones((30, 4))
    before = fingerprint(rna)
    with pytest.raises(ValueError, match=r"rep_rna.*rep_joint"):
        timed.setup_mudata(rna, source_registry=registry)
    assert fingerprint(rna) == before


def spoil(column: str, row: int, value: object):
    def change(mdata: MuData) -> None:
        values = mdata.obs[column].astype(object)
        values.iloc[row] = value
        mdata.obs[column] = values

    return change


BAD = {
    "no time": (None, {"time_key": "hour"}, KeyError, ["hour", "rna:day"]),
    "no sample": (None, {"sample_key": "patient"}, KeyError, ["patient", "donor"]),
    "no region": (None, {"spatial_key": "niche"}, KeyError, ["niche", "region"]),
    "no weight": (None, {"weight_key": "w"}, KeyError, ["'w'", "weight"]),
    "text in time": (
        lambda m: m["rna"].obs.__setitem__("day", [f"stage {'abc'[i % 3]}" for i in range(30)]),
        {},
        ValueError,
        ["time_key='day'", "'stage a'", "not a number"],
    ),
    "time in one modality": (lambda m: m["atac"].obs.pop("day"), {}, ValueError, ["time_key='day'", "19 cells", "a0"]),
    "infinite time": (lambda m: m.obs.__setitem__("day", np.inf), {}, ValueError, ["time_key='day'", "infinite", "49"]),
    "sample missing": (spoil("donor", 3, np.nan), {}, ValueError, ["sample_key='donor'", "1 cells", "no sample", "r3"]),
    "region missing": (spoil("region", 1, None), {}, ValueError, ["spatial_key='region'", "1 cells", "r1"]),
    "weight negative": (spoil("weight", 2, -1.0), {}, ValueError, ["weight_key", "1 cells", "r2", "at least 0"]),
    "weight missing": (spoil("weight", 0, np.nan), {}, ValueError, ["weight_key='weight'", "1 cells", "r0"]),
    "weights zero": (lambda m: m.obs.__setitem__("weight", 0), {}, ValueError, ["weight_key='weight'", "zero"]),
    "key a number": (None, {"time_key": 3}, TypeError, ["time_key=3"]),
    "space with NaN": (
        lambda m: m.obsm["X_joint"].__setitem__((4, 1), np.nan),
        {},
        ValueError,
        ["obsm['X_joint'] of 'joint'", "r4"],
    ),
    "unknown space": (None, {"use_rep": "X_wnn"}, KeyError, ["X_wnn", "X_own"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_with_reason_and_untouched(timed, joint, fingerprint, case):
    change, changes, error, words = BAD[case]
    if change is not None:
        change(joint)
    before = fingerprint(joint)
    start = time.process_time()
    with pytest.raises(error) as caught:
        timed.setup_mudata(joint, **{**COLUMNS, **changes})
    assert time.process_time() - start < 1
    assert fingerprint(joint) == before
    for word in words:
        assert word in str(caught.value)
