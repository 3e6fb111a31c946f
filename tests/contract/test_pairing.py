"""A name in two modalities is one cell only if the cells agree: equal names of different cells do not make pairs."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport import GMM, Integration
from muport.integration.spaces._joint_space import JointSpace

OWN = {"rna": "X_own", "atac": "X_own"}
QUIET = {"accelerator": "cpu", "progress": False, "max_iter": 3}
REFUSED = r"names are in both 'rna' and 'atac'.*agreement.*expected.*obs_names.*paired=True"
N = 400


def measure(z: np.ndarray, modality: str, names: list[str], rng: np.random.Generator) -> AnnData:
    width = {"rna": 8, "atac": 6}[modality]
    loadings = np.random.default_rng(width).normal(size=(5, width))
    adata = AnnData(np.ones((len(z), 1), np.float32), obs=pd.DataFrame(index=names))
    adata.var_names = [modality]
    adata.obsm["X_own"] = (z @ loadings + 0.3 * rng.normal(size=(len(z), width))).astype(np.float32)
    adata.obsm["X_shared"] = (z + 0.3 * rng.normal(size=z.shape)).astype(np.float32)
    return adata


def multiome(common: int, *, pairs: bool = False, n: int = N, ordered: bool = False, seed: int = 0) -> MuData:
    """RNA and ATAC cells of three types, of which `common` have equal names; `pairs`: these are the same cells.

    `ordered`: The cells of both modalities are sorted by type, as many of each.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, (2, n))
    if ordered:
        kind = np.sort(np.stack([kind[0]] * 2), axis=1)
    z = 3 * np.random.default_rng(7).normal(size=(3, 5))[kind] + rng.normal(size=(2, n, 5))
    if pairs:
        kind[1, :common], z[1, :common] = kind[0, :common], z[0, :common]
    mods = {}
    for m, modality in enumerate(OWN):
        names = [str(i) if i < common else f"{modality}{i}" for i in range(n)]
        mods[modality] = measure(z[m], modality, names, rng)
        mods[modality].obs["kind"] = [f"t{k}" for k in kind[m]]
    truth = mods["atac"].obs.pop("kind")
    mods["rna"].obs = mods["rna"].obs.rename(columns={"kind": "cell_type"})
    mdata = MuData(mods)
    mdata.uns["truth"] = truth.to_numpy().astype(str)
    return mdata


def set_up(mdata: MuData, **kwargs) -> None:
    keys = {"use_rep": OWN, "batch_key": None, "labels_key": "rna:cell_type", "shared_rep": "X_shared", **kwargs}
    Integration.setup_mudata(mdata, **keys)


def trained(mdata: MuData, **kwargs) -> Integration:
    set_up(mdata, **kwargs)
    model = Integration(mdata)
    model.train(**QUIET)
    return model


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
@pytest.mark.parametrize("shared_rep", [None, "X_shared"])
def test_equal_names_of_different_cells_are_refused(shared_rep, record_property):
    common = [120, 200, N]
    record_property("tries", len(common))
    for n in common:
        mdata = multiome(n, seed=n)
        start = time.perf_counter()
        with pytest.raises(ValueError, match=f"{n} {REFUSED}"):
            set_up(mdata, shared_rep=shared_rep)
        assert time.perf_counter() - start < 5
        assert not any(c.startswith("_scvi") for c in mdata.obs.columns)


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
def test_pairs_in_another_order_are_refused():
    mdata = multiome(N, pairs=True)
    atac = mdata["atac"].copy()
    atac.obs_names = np.random.default_rng(0).permutation(atac.obs_names)
    with pytest.raises(ValueError, match=REFUSED):
        set_up(MuData({"rna": mdata["rna"], "atac": atac}))


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
def test_concatenated_modalities_of_different_cells_are_refused():
    for pairs in (False, True):
        mdata = multiome(N, pairs=pairs)
        mdata.obs["sample"] = [f"p{i % 4}" for i in range(N)]
        if pairs:
            GMM.setup_mudata(mdata, OWN)
        else:
            with pytest.raises(ValueError, match=r"400 names are in both.*side by side in mdata\.obsm"):
                GMM.setup_mudata(mdata, OWN)


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
@pytest.mark.parametrize("common", [5, 34])
def test_a_few_equal_names_give_a_warning_and_harm_no_other_cell(common):
    mdata = multiome(common, seed=34)
    truth = pd.Series(mdata.uns["truth"], mdata["atac"].obs_names)
    with pytest.warns(UserWarning, match=rf"{common} names are in both.*not used to align.*obs_names"):
        model = trained(mdata)
    others = mdata["atac"].obs_names[common:]
    assert (model.predict().loc[others].astype(str) == truth.loc[others]).mean() > 0.9
    assert model.metrics_["pairs"] == common
    assert model.metrics_["pair_p_value"] > 0.005


@pytest.mark.promise("Names that are equal by chance are not taken for pairs")
def test_files_sorted_by_type_prove_no_pairs(record_property):
    record_property("tries", 6)
    for seed in range(6):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            try:
                set_up(multiome(N, ordered=True, seed=seed))
            except ValueError:
                continue
        assert any("names are in both" in str(warning.message) for warning in found)


@pytest.mark.promise("Pairs are found by their names, and are not refused")
def test_pairs_are_proved(record_property):
    common = [34, 80, N]
    record_property("tries", 2 * len(common))
    for n in common:
        for shared_rep in (None, "X_shared"):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                set_up(multiome(n, pairs=True, seed=n), shared_rep=shared_rep)


@pytest.mark.promise("Pairs are found by their names, and are not refused")
def test_proved_pairs_make_a_joint_space():
    model = trained(multiome(80, pairs=True), shared_rep=None)
    assert isinstance(model.state_.space, JointSpace)
    assert model.metrics_["pairs"] == 80
    assert model.metrics_["pair_agreement"] > 0.3
    assert model.metrics_["pair_p_value"] <= 0.005


@pytest.mark.promise("Pairs are found by their names, and are not refused")
def test_pairs_with_noise_are_not_refused(record_property):
    rng = np.random.default_rng(0)
    noises = {
        "normal": rng.normal(size=(N, 6)),
        "heavy tails": rng.standard_t(3, size=(N, 6)),
        "constant": np.ones((N, 6)),
        "one column": rng.normal(size=(N, 1)),
    }
    record_property("tries", len(noises))
    for values in noises.values():
        mdata = multiome(N, pairs=True)
        mdata["atac"].obsm["X_own"] = values.astype(np.float32)
        with pytest.warns(UserWarning, match=r"400 names are in both.*taken for pairs.*paired=True"):
            set_up(mdata, shared_rep=None)


@pytest.mark.promise("Rows in another order give the same answer")
def test_the_order_of_rows_and_modalities_does_not_change_the_agreement():
    mdata = multiome(80, pairs=True)
    order = np.random.default_rng(1)
    turned = MuData({m: mdata[m][order.permutation(N)].copy() for m in ("atac", "rna")})
    first, second = (trained(data, shared_rep=None).metrics_ for data in (mdata, turned))
    assert first["pair_agreement"] == pytest.approx(second["pair_agreement"], abs=1e-3)
    assert first["pair_p_value"] == second["pair_p_value"]


def test_paired_decides():
    with pytest.raises(
        ValueError, match=r"paired=True, but no cell name is in two of the modalities \['rna', 'atac'\]"
    ):
        set_up(multiome(0), paired=True)
    set_up(multiome(N), paired=True)
    mdata = multiome(N)
    with pytest.raises(ValueError, match=r"paired=False, but 400 names.*obs_names"):
        set_up(mdata, paired=False)
    # the fix of the message
    for m, a in mdata.mod.items():
        a.obs_names = m + ":" + a.obs_names
    fixed = MuData(mdata.mod)
    truth = mdata.uns["truth"]
    for paired in (None, False):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            set_up(fixed, paired=paired)
    model = Integration(fixed)
    model.train(**QUIET)
    assert (model.predict().loc[fixed["atac"].obs_names].astype(str).to_numpy() == truth).mean() > 0.9


def test_paired_decides_for_partly_paired_cells_and_for_queries():
    rng = np.random.default_rng(0)
    whole = multiome(80, pairs=True)
    mdata = MuData({"rna": whole["rna"].copy(), "atac": whole["atac"][:300].copy()})
    # the values of the second modality say nothing of the first, so that a test could not decide
    mdata["atac"].obsm["X_own"] = rng.normal(size=mdata["atac"].obsm["X_own"].shape).astype(np.float32)
    with pytest.warns(UserWarning, match=r"not used to align.*paired=True"):
        set_up(mdata, shared_rep=None)
    set_up(mdata, paired=True, shared_rep=None)
    model = Integration(mdata)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.train(**QUIET)
    assert isinstance(model.state_.space, JointSpace)
    query = MuData({"atac": mdata["atac"][:20].copy()})
    assert model.map_query(query).shape[0] == 20


def test_new_cells_with_equal_names_are_refused():
    model = trained(multiome(80, pairs=True), shared_rep=None)
    query = multiome(N, seed=3)
    with pytest.raises(ValueError, match=f"{N} {REFUSED}"):
        model.map_query(query)
    assert np.isfinite(model.map_query(multiome(N, pairs=True, seed=3))).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert np.isfinite(model.map_query(multiome(7, pairs=True, n=20, seed=3))).all()


def test_common_names_that_prove_nothing_do_not_align():
    mdata = multiome(60)
    rng = np.random.default_rng(0)
    for m in OWN:
        mdata[m].obsm["X_own"] = rng.normal(size=(N, 5)).astype(np.float32)
    with pytest.warns(UserWarning, match="60 names are in both.*not used to align"):
        model = trained(mdata)
    assert not isinstance(model.state_.space, JointSpace)
