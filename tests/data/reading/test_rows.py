from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData
from scipy import sparse

from muport.data import Rows, Setup, read_rows

SHARED = Setup({"rna": "X_own", "atac": "X_own"}, labels_key="cell_type", shared_rep="X_shared")


def of_modality(rows: Rows, name: str) -> np.ndarray:
    return rows.modality == rows.modalities.index(name)


def test_one_row_per_measurement(mdata):
    rows = read_rows(mdata, SHARED)
    assert rows.modalities == ("rna", "atac")
    assert rows.n_cells == 49
    assert rows.n_paired == 1
    assert rows.x.dtype == np.float32
    assert rows.x.flags.c_contiguous
    for name in rows.modalities:
        chosen = of_modality(rows, name)
        assert (rows.x[chosen] == mdata[name].obsm["X_shared"]).all()
        assert (rows.obs_names[rows.cell[chosen]] == mdata[name].obs_names).all()
        assert np.array_equal(rows.own[name], mdata[name].obsm["X_own"].astype(np.float32))


def test_groups_are_batches_of_a_modality(mdata):
    rows = read_rows(mdata, SHARED)
    assert rows.batches == ("b0", "b1", "b2")
    assert rows.groups == ("rna:b0", "rna:b1", "atac:b1", "atac:b2")
    names = np.array(rows.groups)[rows.group]
    expected = [f"{rows.modalities[m]}:{rows.batches[b]}" for m, b in zip(rows.modality, rows.batch, strict=True)]
    assert names.tolist() == expected


def test_groups_of_one_modality_are_its_batches(adata):
    rows = read_rows(adata, Setup("X_pca"))
    assert rows.groups == rows.batches == ("b0", "b1")
    assert np.array_equal(rows.group, rows.batch)
    assert rows.own["adata"].base is rows.x


def test_labels_come_from_rna_and_the_rest_is_unlabeled(mdata):
    rows = read_rows(mdata, SHARED)
    label = pd.Series(rows.label, index=rows.obs_names)
    assert rows.labels == ("t0", "t1", "t2")
    assert (label[mdata["rna"].obs_names] == np.arange(30) % 3).all()
    assert (label[[n for n in mdata["atac"].obs_names if n != "shared0"]] == -1).all()


@pytest.mark.parametrize("how", ["unknown", np.nan, None])
def test_unknown_and_missing_labels_are_one_thing(adata, how):
    adata.obs["cell_type"] = pd.Series(["t0", how, "t1", how] * 10, index=adata.obs_names, dtype=object)
    rows = read_rows(adata, Setup("X_pca", labels_key="cell_type"))
    assert rows.labels == ("t0", "t1")
    assert rows.label[:4].tolist() == [0, -1, 1, -1]


@pytest.mark.promise("Rows in another order give the same answer")
def test_rows_follow_names_after_a_reordering_without_update(mdata):
    before = read_rows(mdata, SHARED)
    mdata.mod["rna"] = mdata.mod["rna"][::-1].copy()
    after = read_rows(mdata, SHARED)
    assert (after.obs_names == before.obs_names).all()
    assert np.array_equal(after.to_cells(after.x), before.to_cells(before.x))
    assert np.array_equal(after.label, before.label)
    assert not np.array_equal(after.cell, before.cell)


def test_to_cells_averages_the_measurements_of_a_cell(mdata):
    rows = read_rows(mdata, SHARED)
    cells = pd.DataFrame(rows.to_cells(rows.x), index=rows.obs_names)
    rna, atac = (pd.DataFrame(mdata[m].obsm["X_shared"], index=mdata[m].obs_names) for m in ("rna", "atac"))
    both = (rna.loc["shared0"] + atac.loc["shared0"]) / 2
    assert np.allclose(cells.loc["shared0"], both)
    assert (cells.loc["r3"] == rna.loc["r3"]).all()
    assert (cells.loc["a3"] == atac.loc["a3"]).all()


@given(st.integers(0, 20), st.integers(0, 10), st.integers(0, 3))
def test_to_cells_of_names_is_the_name(n_rna, n_atac, n_both):
    if n_rna + n_atac + n_both == 0:
        return
    names = {"rna": [f"r{i}" for i in range(n_rna)], "atac": [f"a{i}" for i in range(n_atac)]}
    mods = {}
    for name, own in names.items():
        obs_names = [*own, *(f"s{i}" for i in range(n_both))][::-1]
        code = np.array([[hash(n) % 1000] for n in obs_names], dtype=float).reshape(-1, 1)
        mods[name] = AnnData(np.ones((len(obs_names), 1)), obs=pd.DataFrame(index=obs_names), obsm={"X": code})
    rows = read_rows(MuData(mods), Setup(None, None, shared_rep="X"))
    assert rows.n_paired == n_both
    assert rows.to_cells(rows.x).ravel().tolist() == [hash(n) % 1000 for n in rows.obs_names]


KINDS = {
    "float64": lambda x: x,
    "fortran": np.asfortranarray,
    "integer": lambda x: (100 * x).astype(int),
    "float16": lambda x: x.astype(np.float16),
    "boolean": lambda x: x > 0,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "frame": lambda x: pd.DataFrame(x, columns=list("abcde"), index=[f"c{i}" for i in range(40)]),
}


@pytest.mark.promise("Each kind of array or column gives the same result")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_becomes_the_same_float32(adata, kind, fingerprint):
    given_ = KINDS[kind](adata.obsm["X_pca"])
    adata.obsm["X_pca"] = given_
    expected = given_.toarray() if sparse.issparse(given_) else np.asarray(given_)
    before = fingerprint(adata)
    rows = read_rows(adata, Setup("X_pca"))
    assert np.array_equal(rows.x, expected.astype(np.float32))
    assert rows.x.flags.c_contiguous
    assert fingerprint(adata) == before


def test_backed_data(adata, tmp_path):
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    rows = read_rows(backed, Setup("X_pca"))
    assert np.array_equal(rows.x, adata.obsm["X_pca"].astype(np.float32))


def test_more_rows_than_a_block(monkeypatch, adata):
    monkeypatch.setattr("muport.data.reading._representation._BLOCK", 7)
    rows = read_rows(adata, Setup("X_pca"))
    assert np.array_equal(rows.x, adata.obsm["X_pca"].astype(np.float32))
    adata.obsm["X_pca"][[17, 31], 2] = np.nan
    with pytest.raises(ValueError, match=r"2 NaN.*'c17'"):
        read_rows(adata, Setup("X_pca"))


def test_memory_is_one_copy():
    import tracemalloc

    n, d = 100_000, 50
    adata = AnnData(sparse.csr_matrix((n, 1)), obsm={"X_pca": np.ones((n, d))})
    adata.obs["batch"] = pd.Categorical.from_codes(np.arange(n) % 5, list("abcde"))
    tracemalloc.start()
    rows = read_rows(adata, Setup("X_pca"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.6 * rows.x.nbytes


@pytest.mark.promise("A call changes nothing in the data of the user that it was not asked to write")
def test_views_stay_views(mdata, adata, fingerprint):
    view, single = mdata[5:45], adata[5:25]
    before = fingerprint(view), fingerprint(single), fingerprint(mdata)
    rows = read_rows(view, SHARED)
    assert rows.obs_names.tolist() == mdata.obs_names[5:45].tolist()
    assert read_rows(single, Setup("X_pca")).n_cells == 20
    assert (fingerprint(view), fingerprint(single), fingerprint(mdata)) == before
    assert view.is_view
    assert view.mod["rna"].is_view
    assert single.is_view


def test_columns_at_the_top_fill_and_rule(mdata):
    mdata.obs["batch"] = pd.Series(["top"] * 40 + [np.nan] * 9, index=mdata.obs_names, dtype=object)
    rows = read_rows(mdata, SHARED)
    assert rows.batches == ("b1", "b2", "top")
    assert (np.array(rows.batches)[rows.batch[rows.cell < 40]] == "top").all()


def test_prefixed_column_is_that_modality_alone(mdata):
    mdata["atac"].obs["cell_type"] = "never"
    rows = read_rows(mdata, Setup(None, labels_key="rna:cell_type", shared_rep="X_shared"))
    assert rows.labels == ("t0", "t1", "t2")
    assert (rows.label >= 0).sum() == 30


def test_numbers_unused_levels_and_mixed_types_become_sorted_text(mdata):
    mdata["rna"].obs["batch"] = np.arange(30) % 2
    mdata["atac"].obs["batch"] = pd.Categorical(["1"] * 20, categories=["0", "1", "9"])
    rows = read_rows(mdata[mdata.obs_names != "shared0"].copy(), Setup(None, shared_rep="X_shared"))
    assert rows.batches == ("0", "1")


def test_documented_oddities_pass(mdata, adata):
    adata.obs["batch"] = ["only"] + ["b"] * 39
    assert np.bincount(read_rows(adata, Setup("X_pca")).batch).tolist() == [39, 1]
    assert read_rows(adata, Setup("X_pca", batch_key=None)).batches == ("all",)
    adata.obsm["X_pca"][:] = 3.0
    assert (read_rows(adata, Setup("X_pca")).x == 3).all()
    adata.obs["cell_type"] = "unknown"
    rows = read_rows(adata, Setup("X_pca", labels_key="cell_type"))
    assert rows.labels == ()
    assert (rows.label == -1).all()
    empty = MuData({"rna": mdata["rna"].copy(), "atac": mdata["atac"][:0].copy()})
    rows = read_rows(empty, SHARED)
    assert rows.modalities == ("rna", "atac")
    assert len(rows.x) == rows.n_cells == 30


def test_queries_need_less(mdata, adata):
    rna = MuData({"rna": mdata["rna"].copy()})
    del rna["rna"].obs["cell_type"], rna["rna"].obsm["X_own"]
    rows = read_rows(rna, SHARED, modalities=("rna", "atac"), require_labels=False)
    assert rows.groups == ("rna:b0", "rna:b1")
    assert rows.own == {"rna": None}
    assert (rows.label == -1).all()
    del adata.obs["batch"]
    assert read_rows(adata, Setup("X_pca"), modalities=("adata",), require_batch=False).batches == ("all",)
    wrapped = MuData({"rna": adata})
    assert read_rows(wrapped, Setup("X_pca", batch_key=None), modalities=("adata",)).modalities == ("adata",)
    assert read_rows(adata, Setup({"rna": "X_pca"}, None), modalities=("rna",)).modalities == ("rna",)


def test_shared_rep_by_modality_and_by_name_agree(mdata):
    one = read_rows(mdata, Setup(None, shared_rep="X_shared"))
    two = read_rows(mdata, Setup(None, shared_rep={"rna": "X_shared", "atac": "X_shared"}))
    assert np.array_equal(one.x, two.x)
    assert one.own == two.own == {"rna": None, "atac": None}


def test_summary_tells_the_counts(mdata):
    text = read_rows(mdata, SHARED).summary()
    assert text == "49 cells (rna 30, atac 20; 1 in more than one), 3 batches, 30 cells in 3 labels"


def test_cells_of_another_width_are_refused(mdata):
    rows = read_rows(mdata, SHARED)
    rows.check_width(rows.x.shape[1])
    with pytest.raises(ValueError, match=rf"{rows.x.shape[1]} coordinates, but the model has 3"):
        rows.check_width(3)


def test_repeated_names_beside_a_modality_called_data_are_refused(adata):
    mdata = MuData({"data": adata, "rna": adata.copy()})
    mdata.obs_names = ["c0", *mdata.obs_names[1:-1], "c0"]
    with pytest.raises(ValueError, match=r"obs_names of 'data' repeat 1"):
        read_rows(mdata, Setup(None, shared_rep="X_pca"))


def frames(*columns: str, **others: object) -> MuData:
    """Modalities a, b, ... of one cell each beside the cell ``c``; the columns of each space are in the given order."""
    mods = {}
    for number, (name, order) in enumerate(zip("abd", columns, strict=False)):
        part = AnnData(np.zeros((2, 1)), obs=pd.DataFrame(index=["c", name]))
        part.var_names = [f"gene {name}"]
        values = pd.DataFrame([[10 * number + "xyz".index(c) for c in order]] * 2, part.obs_names, list(order))
        part.obsm["X"] = values.astype(float)
        mods[name] = part
    return MuData(mods)


def test_a_cell_in_three_modalities_is_their_mean():
    mdata = frames("xyz", "xyz", "xyz")
    rows = read_rows(mdata, Setup(None, None, shared_rep="X"))
    assert (rows.n_cells, rows.n_paired) == (4, 1)
    found = pd.DataFrame(rows.to_cells(rows.x), rows.obs_names)
    assert found.loc["c"].tolist() == [10, 11, 12]
    assert found.loc["d"].tolist() == [20, 21, 22]
    assert rows.to_cells(rows.x.astype(np.float64)).dtype == np.float32
    assert rows.summary() == "4 cells (a 2, b 2, d 2; 1 in more than one), 1 batches, 0 cells in 0 labels"


def test_tables_of_one_space_are_read_in_one_order():
    shared = Setup(None, None, shared_rep="X")
    rows = read_rows(frames("xyz", "zxy"), shared)
    assert rows.x.tolist() == [[0, 1, 2]] * 2 + [[10, 11, 12]] * 2
    mdata = frames("yxz", "zxy")
    assert read_rows(mdata, shared).x.tolist() == [[1, 0, 2]] * 2 + [[11, 10, 12]] * 2
    mdata["a"].obsm["X"] = mdata["a"].obsm["X"].to_numpy()
    assert read_rows(mdata, shared).x.tolist() == [[1, 0, 2]] * 2 + [[12, 10, 11]] * 2, "an array has no names"
    names = {("a", "X"): [0, 1, 2], ("b", "X"): list("xyz")}
    assert read_rows(mdata, shared, columns=names).x.tolist() == [[1, 0, 2]] * 2 + [[10, 11, 12]] * 2
    own = read_rows(frames("yxz", "zxy"), Setup({"a": "X", "b": "X"}, None, separate=True))
    assert (own.x.shape, own.x.dtype) == ((4, 0), np.float32)
    assert own.own["b"].tolist() == [[12, 10, 11]] * 2, "each space of its own is read as it is"


@pytest.mark.parametrize("layout", ["separate", "concatenate", "shared"])
def test_a_model_reads_its_modalities_and_columns_in_its_order(layout):
    setup = Setup("X", None, shared_rep="X") if layout == "shared" else Setup("X", None, **{layout: True})
    mdata = frames("xyz", "zxy")
    if layout == "concatenate":
        mdata = MuData({name: part[:1].copy() for name, part in mdata.mod.items()})
    model = {("b", "X"): list("xyz"), ("a", "X"): list("zyx")}
    if layout == "shared":
        model["a", "X"] = list("xyz")
    rows = read_rows(mdata, setup, columns=model)
    if layout == "concatenate":
        assert rows.columns == {"b": slice(0, 3), "a": slice(3, 6)}
        assert rows.x.tolist() == [[10, 11, 12, 2, 1, 0]]
    elif layout == "separate":
        assert rows.modalities == ("b", "a")
        assert (rows.own["b"].tolist(), rows.own["a"].tolist()) == ([[10, 11, 12]] * 2, [[2, 1, 0]] * 2)
    else:
        assert rows.x.tolist() == [[10, 11, 12]] * 2 + [[0, 1, 2]] * 2
        assert np.shares_memory(rows.own["b"], rows.x)


def test_names_of_groups_are_without_signs_that_have_a_meaning():
    mdata = frames("xyz", "xyz")
    mdata = MuData({"a:1": mdata["a"], "b+%": mdata["b"]})
    rows = read_rows(mdata, Setup(None, None, shared_rep="X"))
    assert rows.modalities == ("a:1", "b+%")
    assert rows.groups == ("a%3A1:all", "b%2B%25:all")
    assert rows.group.dtype == np.int64
    query = MuData({"b+%": mdata["b+%"].copy()})
    setup = Setup(None, None, shared_rep="X")
    assert read_rows(query, setup, modalities=("a:1", "b+%")).groups == ("b%2B%25:all",)
    assert read_rows(query, setup).groups == ("all",)


def test_float32_rows_of_one_modality_are_not_copied(adata):
    adata.obsm["X_pca"] = adata.obsm["X_pca"].astype(np.float32)
    rows = read_rows(adata, Setup("X_pca"))
    assert np.shares_memory(rows.x, adata.obsm["X_pca"])
    assert not rows.x.flags.writeable
    assert rows.to_cells(rows.x).base is rows.x.base
    assert np.shares_memory(read_rows(adata, Setup(None, shared_rep="X_pca")).x, adata.obsm["X_pca"])


def test_every_representation_has_one_row_for_each_cell(mdata):
    mdata["atac"].obsm["X_own"] = pd.DataFrame(mdata["atac"].obsm["X_own"], mdata["atac"].obs_names)
    read_rows(mdata, SHARED)
    mdata["atac"].obsm["X_own"].index = [f"other{i}" for i in range(20)]
    with pytest.raises(ValueError, match=r"obsm\['X_own'\] of 'atac' is a table whose rows have other names"):
        read_rows(mdata, SHARED)


def test_the_range_of_new_cells_is_not_checked(adata):
    adata.obsm["X_pca"] = 1e9 + adata.obsm["X_pca"]
    with pytest.raises(ValueError, match="float32 cannot hold: subtract the mean"):
        read_rows(adata, Setup("X_pca"))
    assert read_rows(adata, Setup("X_pca"), modalities=("adata",)).n_cells == 40
