"""The arguments of a set-up, and the modalities and keys that they name."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import Setup, is_joint, select_modalities
from muport.data.registration._setup import SpaceKeys, find_space_keys, sort_modalities


def part(n: int = 5, prefix: str = "c", **obsm: int) -> AnnData:
    data = AnnData(np.zeros((n, 1), np.float32), obsm={key: np.ones((n, width)) for key, width in obsm.items()})
    data.obs_names = [f"{prefix}{i}" for i in range(n)]
    return data


@pytest.fixture
def two() -> MuData:
    mods = {"rna": part(X_own=3, X_shared=2, X_pca=2), "atac": part(X_own=4, X_shared=2)}
    for name, data in mods.items():
        data.var_names = [name]
    mdata = MuData(mods)
    mdata.obsm["X_joint"] = np.ones((5, 2))
    return mdata


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"use_rep": ""}, TypeError, "use_rep='' must be an obsm key"),
        ({"shared_rep": 3}, TypeError, "shared_rep=3 must be an obsm key"),
        ({"shared_rep": {}}, ValueError, "shared_rep is an empty dict"),
        ({"shared_rep": {1: "X"}}, TypeError, r"shared_rep\[1\]='X' must be an obsm key"),
        ({"use_rep": {"rna": None}}, TypeError, r"use_rep\['rna'\]=None"),
        ({"sample_key": 1}, TypeError, "sample_key=1 must be the name of a column or None"),
        ({"weight_key": ("w",)}, TypeError, "weight_key=.* must be the name of a column"),
        ({"unlabeled_category": None}, TypeError, "unlabeled_category=None must be a string"),
        ({"paired": 1}, TypeError, "paired=1 must be None, True or False"),
        ({"concatenate": 1}, TypeError, "concatenate=1 must be True or False"),
        ({"separate": None}, TypeError, "separate=None must be True or False"),
        ({"use_rep": None}, ValueError, "use_rep=None and shared_rep=None"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Setup(**arguments)


def test_defaults_and_arguments_of_a_registry():
    setup = Setup()
    assert (setup.use_rep, setup.batch_key, setup.unlabeled_category) == ({"rna": "X_pca"}, "batch", "unknown")
    assert Setup.from_args({"use_rep": "X", "paired": True, "other": 3}) == Setup("X", paired=True)
    assert Setup(None, shared_rep="X").use_rep is None


def test_modalities_of_an_object(two):
    adata = part(X_own=3)
    assert list(select_modalities(adata, Setup("X"))) == ["adata"]
    assert list(select_modalities(adata, Setup({"rna": "X"}))) == ["rna"]
    assert list(select_modalities(adata, Setup({"rna": "X"}, shared_rep="S"))) == ["rna"]
    assert list(select_modalities(adata, Setup("X", shared_rep={"atac": "S"}))) == ["atac"]
    assert list(select_modalities(adata, Setup({"rna": "X"}), ("atac",))) == ["atac"]
    for setup, expected in ((Setup({"rna": "X", "atac": "X"}), None), (Setup("X"), ("rna", "atac"))):
        with pytest.raises(ValueError, match=r"names the modalities \['rna', 'atac'\]: pass a MuData"):
            select_modalities(adata, setup, expected)
    with pytest.raises(TypeError, match="data is a list, expected MuData or AnnData"):
        select_modalities([adata], Setup("X"))
    assert list(select_modalities(two, Setup("X_own"))) == ["rna", "atac"]
    assert select_modalities(two, Setup("X_joint")) == {"joint": two}
    assert list(select_modalities(two, Setup({"rna": "X_joint"}))) == ["rna", "atac"]
    assert list(select_modalities(two, Setup("X_joint", shared_rep="X_shared"))) == ["rna", "atac"]
    assert list(select_modalities(two, Setup("X_joint"), ("rna", "atac"))) == ["rna", "atac"]
    assert select_modalities(two, Setup("X_new"), ("joint",)) == {"joint": two}
    single = MuData({"other": adata})
    assert select_modalities(single, Setup("X_own"), ("adata",)) == {"adata": adata}
    assert select_modalities(single, Setup("X_own")) == {"other": adata}
    assert list(select_modalities(two, Setup("X_own"), ("adata",))) == ["rna", "atac"]
    named = MuData({"joint": adata})
    assert select_modalities(named, Setup("X_own"), ("joint",)) == {"joint": adata}


def test_what_is_no_modality_is_refused(two):
    two.mod["rna"] = "text"
    with pytest.raises(TypeError, match="modality 'rna' is a str, expected AnnData"):
        select_modalities(two, Setup("X_own"))


def test_a_space_of_all_cells(two):
    assert is_joint(two, "X_joint")
    assert not is_joint(two, "X_own")
    assert not is_joint(two, "rna"), "a mask of the modality"
    two.obsm["X_own"] = np.ones((5, 2))
    assert is_joint(two, "X_own")
    single = MuData({"rna": part(X_own=3)})
    single.obsm["X_own"] = single.obsm["X_joint"] = np.ones((5, 2))
    assert not is_joint(single, "X_own")
    assert is_joint(single, "X_joint")


def test_modalities_in_the_order_of_the_model():
    assert list(sort_modalities({"a": 1, "b": 2, "c": 3}, ["c", "d", "a"]).items()) == [("c", 3), ("a", 1), ("b", 2)]


BOTH = {"rna": "X_own", "atac": "X_own"}
SHARED = {"rna": "X_shared", "atac": "X_shared"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"use_rep": {"rna": "X_pca"}}, SpaceKeys({"rna": "X_pca"}, {"rna": "X_pca"})),
        ({"use_rep": BOTH, "concatenate": True}, SpaceKeys(BOTH, BOTH, True)),
        ({"use_rep": BOTH, "separate": True}, SpaceKeys(BOTH, BOTH, False, True)),
        ({"use_rep": "X_own", "separate": True}, SpaceKeys(BOTH, BOTH, False, True)),
        ({"use_rep": {"rna": "X_pca"}, "separate": True}, SpaceKeys({"rna": "X_pca"}, {"rna": "X_pca"})),
        ({"use_rep": {"rna": "X_pca"}, "concatenate": True}, SpaceKeys({"rna": "X_pca"}, {"rna": "X_pca"})),
        ({"use_rep": BOTH, "shared_rep": "X_shared", "separate": True}, SpaceKeys(SHARED, BOTH)),
        ({"use_rep": BOTH, "shared_rep": "X_shared", "concatenate": True}, SpaceKeys(SHARED, BOTH)),
        ({"use_rep": {"atac": "X_own"}, "shared_rep": "X_shared"}, SpaceKeys(SHARED, {"atac": "X_own"})),
        ({"use_rep": None, "shared_rep": "X_pca"}, SpaceKeys({"rna": "X_pca"}, {})),
        ({"use_rep": None, "shared_rep": {"atac": "X_own"}}, SpaceKeys({"atac": "X_own"}, {})),
        ({"use_rep": "X_own", "shared_rep": {"rna": "X_pca"}}, SpaceKeys({"rna": "X_pca"}, {"rna": "X_own"})),
    ],
)
def test_keys_that_a_setup_names(two, arguments, expected):
    assert find_space_keys(dict(two.mod), Setup(**arguments)) == expected


@pytest.mark.parametrize(
    ("arguments", "held", "model", "expected"),
    [
        (
            {"use_rep": BOTH, "shared_rep": "X_shared"},
            ["rna"],
            ("rna", "atac"),
            SpaceKeys({"rna": "X_shared"}, {"rna": "X_own"}),
        ),
        ({"use_rep": {"rna": "X"}, "shared_rep": "X_shared"}, ["rna"], ("rna",), SpaceKeys({"rna": "X_shared"}, {})),
        (
            {"use_rep": BOTH, "separate": True},
            ["atac"],
            ("rna", "atac"),
            SpaceKeys({"atac": "X_own"}, {"atac": "X_own"}, False, True),
        ),
        ({"use_rep": BOTH, "concatenate": True}, ["rna", "atac"], ("rna", "atac"), SpaceKeys(BOTH, BOTH, True)),
        ({"use_rep": "X_own"}, ["rna", "atac"], ("atac",), SpaceKeys({"atac": "X_own"}, {"atac": "X_own"})),
    ],
)
def test_keys_of_new_cells(two, arguments, held, model, expected):
    mods = {name: two[name] for name in held}
    assert find_space_keys(mods, Setup(**arguments), model) == expected


@pytest.mark.parametrize(
    ("arguments", "model", "error", "message"),
    [
        ({"use_rep": BOTH}, None, ValueError, r"names 2 modalities \(rna, atac\), whose spaces differ"),
        ({"use_rep": "X_own"}, None, ValueError, "names 2 modalities"),
        ({"use_rep": "X_none"}, None, KeyError, "'X_none' is neither in mdata.obsm nor in a modality.*'X_pca'"),
        ({"use_rep": None, "shared_rep": "X_none"}, None, KeyError, r"is in no modality; obsm holds .*X_own"),
        ({"use_rep": {"adt": "X"}, "shared_rep": {"rna": "X_own"}}, None, ValueError, r"use_rep names \['adt'\]"),
        (
            {"use_rep": {"adt": "X"}},
            None,
            KeyError,
            r"use_rep names modality 'adt', but the data has \['rna', 'atac'\]",
        ),
        ({"use_rep": None, "shared_rep": {"adt": "X"}}, None, KeyError, "shared_rep names modality 'adt'"),
        (
            {"use_rep": {"rna": "X"}},
            None,
            KeyError,
            r"use_rep: obsm\['X'\] is not in modality 'rna'.*; pass use_rep=None",
        ),
        ({"use_rep": {"atac": "X_pca"}, "shared_rep": "X_shared"}, None, KeyError, r"use_rep: obsm\['X_pca'\].*'atac'"),
        ({"use_rep": None, "shared_rep": {"rna": "X"}}, None, KeyError, r"shared_rep: obsm\['X'\].*compute it first\."),
        ({"use_rep": {"adt": "X"}}, ("adt",), KeyError, r"none of the model's modalities \['adt'\] is in the data"),
        ({"use_rep": {"rna": "X_own", "adt": "X"}, "concatenate": True}, ("rna", "adt"), KeyError, "modality 'adt'"),
    ],
)
def test_keys_that_are_missing_are_named(two, arguments, model, error, message):
    with pytest.raises(error, match=message):
        find_space_keys(dict(two.mod), Setup(**arguments), model)


def test_the_joint_space_of_new_cells_is_named(two):
    with pytest.raises(KeyError, match=r"use_rep='X' is not in mdata.obsm, which has \['X_joint'\]: write the joint"):
        find_space_keys({"joint": two}, Setup("X"), ("joint",))
