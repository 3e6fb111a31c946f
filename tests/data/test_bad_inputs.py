"""Each bad input is refused within a second, with the key, the value and the fix, and the object as it was."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

BOTH = {"rna": "X_own", "atac": "X_own"}


def put(adata: AnnData, key: str, row: int, value: float) -> None:
    array = np.array(adata.obsm[key])
    array[row, 1] = value
    adata.obsm[key] = array


def column(n: int, value: object, every: int = 7) -> pd.Categorical:
    return pd.Categorical([value if i % every == 0 else "b1" for i in range(n)])


def rename(mdata: MuData) -> MuData:
    mdata["rna"].obs_names = ["r0", "r0", *mdata["rna"].obs_names[2:]]
    return mdata


def disagree(mdata: MuData, value: str) -> None:
    mdata["rna"].obs["batch"] = mdata["rna"].obs["batch"].astype(str)
    mdata["rna"].obs.loc["shared0", "batch"] = value


# name: (what is done to the object, arguments of setup_mudata, error, words that the message must hold)
MUDATA = {
    "missing obsm key": (None, {"shared_rep": "X_joint"}, KeyError, ["shared_rep", "X_joint", "X_shared"]),
    "missing key of one": (lambda m: m["atac"].obsm.pop("X_shared"), {}, KeyError, ["atac", "X_shared", "X_own"]),
    "missing own key": (None, {"use_rep": {"rna": "X_pca"}}, KeyError, ["X_pca", "rna", "X_own", "use_rep=None"]),
    "unknown modality": (None, {"use_rep": {"prot": "X_own"}}, KeyError, ["prot", "rna", "atac"]),
    "several without shared": (None, {"shared_rep": None}, ValueError, ["shared_rep", "rna", "atac"]),
    "string without shared": (None, {"use_rep": "X_own", "shared_rep": None}, ValueError, ["shared_rep"]),
    "nothing asked": (None, {"use_rep": None, "shared_rep": None}, ValueError, ["use_rep", "shared_rep"]),
    "own outside shared": (None, {"shared_rep": {"rna": "X_shared"}}, ValueError, ["atac", "shared_rep"]),
    "widths differ": (None, {"shared_rep": BOTH}, ValueError, ["width", "5", "3"]),
    "cells left out": (
        None,
        {"use_rep": {"rna": "X_own"}, "shared_rep": {"rna": "X_shared"}},
        ValueError,
        ["19 cells", "rna", "a0", "use_rep"],
    ),
    "NaN in rep": (lambda m: put(m["rna"], "X_shared", 3, np.nan), {}, ValueError, ["X_shared", "rna", "1 NaN", "r3"]),
    "Inf in own rep": (lambda m: put(m["atac"], "X_own", 5, np.inf), {}, ValueError, ["X_own", "atac", "a5"]),
    "beyond float32": (lambda m: put(m["rna"], "X_own", 2, 1e300), {}, ValueError, ["X_own", "float32", "r2"]),
    "complex rep": (
        lambda m: m["rna"].obsm.update({"X_shared": np.ones((30, 4), complex)}),
        {},
        TypeError,
        ["X_shared", "complex128"],
    ),
    "rep of one axis": (
        lambda m: m["rna"].obsm.update({"X_shared": np.ones(30)}),
        {},
        ValueError,
        ["X_shared", "width", "1"],
    ),
    "rep without columns": (
        lambda m: m["rna"].obsm.update({"X_shared": np.ones((30, 0))}),
        {},
        ValueError,
        ["X_shared", "(30, 0)"],
    ),
    "text in a frame": (
        lambda m: m["rna"].obsm.update({"X_shared": pd.DataFrame("x", index=m["rna"].obs_names, columns=list("abcd"))}),
        {},
        TypeError,
        ["X_shared", "astype"],
    ),
    "NaN in batch": (
        lambda m: m["rna"].obs.__setitem__("batch", column(30, np.nan)),
        {},
        ValueError,
        ["batch_key='batch'", "5 cells", "r0"],
    ),
    "batch in one modality": (lambda m: m["atac"].obs.pop("batch"), {}, ValueError, ["batch", "19 cells", "a0"]),
    "batch of one prefix": (None, {"batch_key": "rna:batch"}, ValueError, ["rna:batch", "19 cells"]),
    "unknown batch column": (None, {"batch_key": "donor"}, KeyError, ["donor", "rna:batch", "rna:cell_type"]),
    "unknown label column": (None, {"labels_key": "type"}, KeyError, ["type", "rna:cell_type"]),
    "unknown prefix": (None, {"labels_key": "prot:cell_type"}, KeyError, ["prot:cell_type"]),
    "modalities disagree": (lambda m: disagree(m, "z"), {}, ValueError, ["batch", "1 cells", "shared0", "'z'", "b1"]),
    "the other way round": (lambda m: disagree(m, "a"), {}, ValueError, ["batch", "1 cells", "shared0", "'a'", "b1"]),
    "names collide": (None, {"paired": False}, ValueError, ["paired=False", "1 names", "shared0", "prefix"]),
    "duplicate names": (rename, {}, ValueError, ["rna", "1 names", "r0", "obs_names_make_unique"]),
    "use_rep a list": (None, {"use_rep": ["X_own"]}, TypeError, ["use_rep", "['X_own']"]),
    "use_rep empty": (None, {"use_rep": {}}, ValueError, ["use_rep", "rna"]),
    "use_rep of numbers": (None, {"use_rep": {"rna": 3}}, TypeError, ["use_rep", "3"]),
    "batch_key a list": (None, {"batch_key": ["batch"]}, TypeError, ["batch_key", "['batch']"]),
    "paired a word": (None, {"paired": "yes"}, TypeError, ["paired", "yes"]),
    "unlabeled a number": (None, {"unlabeled_category": 0}, TypeError, ["unlabeled_category", "0"]),
    "unknown option": (None, {"extend": True}, TypeError, ["extend"]),
}


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("case", MUDATA)
@pytest.mark.filterwarnings("ignore:.*not unique")
def test_refused_with_reason_and_untouched(fake, mdata, fingerprint, case):
    spoil, changes, error, words = MUDATA[case]
    if spoil is not None:
        spoil(mdata)
    before = fingerprint(mdata)
    start = time.perf_counter()
    with pytest.raises(error) as caught:
        fake.setup_mudata(mdata, **{"use_rep": BOTH, "shared_rep": "X_shared", "labels_key": "cell_type", **changes})
    assert time.perf_counter() - start < 1
    assert fingerprint(mdata) == before
    for word in words:
        assert word in str(caught.value)


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
def test_view_is_refused_and_stays_a_view(fake, mdata, adata, fingerprint):
    view = mdata[:40]
    before = fingerprint(view)
    with pytest.raises(ValueError, match=r"mudata\.copy\(\)"):
        fake.setup_mudata(view, BOTH, shared_rep="X_shared")
    assert fingerprint(view) == before
    with pytest.raises(ValueError, match=r"anndata\.copy\(\)"):
        fake.setup_anndata(adata[:10])


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
def test_other_objects_are_refused(fake, mdata, adata):
    with pytest.raises(TypeError, match="DataFrame"):
        fake.setup_mudata(mdata.obs)
    with pytest.raises(ValueError, match="no cells"):
        fake.setup_anndata(adata[:0].copy())
    with pytest.raises(ValueError, match="MuData"):
        fake.setup_mudata(mdata["rna"].copy(), BOTH, shared_rep="X_shared")


def test_cells_that_mdata_does_not_know(fake, mdata):
    more = mdata["rna"].copy()
    more.obs_names = [f"new{i}" for i in range(30)]
    mdata.mod["rna"] = more
    with pytest.raises(ValueError, match=r"30 cells.*mdata\.update\(\)"):
        fake.setup_mudata(mdata, BOTH, shared_rep="X_shared")


def test_unseen_batch_on_transfer_is_undone(fake, adata, fingerprint):
    fake.setup_anndata(adata, labels_key="cell_type")
    registry = fake(adata).registry_
    new = adata.copy()
    new.obs["cell_type"] = "t9"
    fake.setup_anndata(new, batch_key=None)
    before = fingerprint(new)
    with pytest.raises(ValueError, match=r"cell_type.*t9.*map_query"):
        fake.setup_anndata(new, labels_key="cell_type", source_registry=registry)
    assert fingerprint(new) == before
