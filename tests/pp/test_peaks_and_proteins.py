from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData, read_h5mu
from scipy import sparse

from muport import datasets, pp
from muport.pp._modality_types import modality_type

QUICK = {"n_top_genes": 60, "n_comps": 8, "n_neighbors": 15, "umap": False}


@pytest.fixture
def mdata() -> MuData:
    """RNA, peaks with links, and proteins."""
    mdata = datasets.simulated_multiome(n_cells=120, n_genes=60, n_peaks=90)
    adt = AnnData(np.random.default_rng(0).poisson(8.0, (50, 6)).astype(np.float32))
    adt.obs_names, adt.var_names = [f"a{i}" for i in range(50)], [f"CD{i}" for i in range(6)]
    return MuData({**mdata.mod, "adt": adt})


def test_every_modality_gets_what_is_usual(mdata, monkeypatch, tmp_path):
    counts, proteins = mdata["atac"].X.copy(), mdata["adt"].X.copy()
    alone = pp.prepare(mdata["rna"].copy(), copy=True, **QUICK)
    logged = []
    monkeypatch.setattr("muport.pp._peaks_and_proteins.logger.info", lambda text, *args: logged.append(text % args))
    pp.prepare(mdata, **QUICK)
    assert np.array_equal(mdata["rna"].obsm["X_pca"], alone.obsm["X_pca"])
    lsi = AnnData(counts, var=pd.DataFrame(index=mdata["atac"].var_names))
    pp.iterative_lsi(lsi)
    assert np.array_equal(mdata["atac"].obsm["X_lsi"], lsi.obsm["X_lsi"])
    assert (mdata["atac"].X != counts).nnz == 0
    log = np.log1p(proteins)
    assert np.allclose(mdata["adt"].layers["clr"], log - log.mean(axis=1, keepdims=True), atol=1e-6)
    assert mdata["adt"].obsm["X_pca"].shape == (50, 5)
    assert np.array_equal(mdata["adt"].X, proteins)
    assert mdata["rna"].obsm["X_shared"].shape == mdata["atac"].obsm["X_shared"].shape == (120, 30)
    told = mdata.uns["prepare"]
    assert isinstance(told, str)
    assert [line.split(":")[0] for line in told.splitlines()] == ["rna", "atac", "adt"]
    assert "shared genes, PCA of 30 dimensions" in told
    assert any(line.startswith("prepare: adt: proteins") for line in logged)
    mdata.write(tmp_path / "m.h5mu")
    assert np.array_equal(read_h5mu(tmp_path / "m.h5mu")["atac"].varm["LSI"], mdata["atac"].varm["LSI"])


def test_what_is_there_stays_and_what_fails_is_told(mdata):
    mine = np.ones((120, 2), np.float32)
    mdata["atac"].obsm["X_lsi"] = mine
    mdata["adt"].X = np.log1p(mdata["adt"].X)
    pp.prepare(mdata, **QUICK)
    assert np.array_equal(mdata["atac"].obsm["X_lsi"], mine)
    assert "X_pca" not in mdata["adt"].obsm
    assert "atac: atac: left as it is: it has X_lsi" in mdata.uns["prepare"]
    assert "adt: protein: left as it is: X holds" in mdata.uns["prepare"]


def test_only_what_is_named_is_prepared_and_must_succeed(mdata, fingerprint):
    data = MuData({"gex": mdata["rna"].copy(), "x": mdata["atac"].copy(), "y": mdata["adt"].copy()})
    pp.prepare(data, modalities={"gex": "rna", "y": "protein"}, **QUICK)
    assert "X_lsi" not in data["x"].obsm
    assert "clr" in data["y"].layers
    assert "x: left as it is: not recognized" in data.uns["prepare"]
    other = mdata.copy()
    other["atac"].X = other["atac"].X.log1p()
    before = [fingerprint(part) for part in other.mod.values()]
    with pytest.raises(ValueError, match="modality 'atac': X holds"):
        pp.prepare(other, modalities={"rna": "rna", "atac": "atac"}, **QUICK)
    assert [fingerprint(part) for part in other.mod.values()] == before


def test_an_annotation_gives_activity_and_a_shared_space(mdata, fingerprint):
    atac = mdata["atac"]
    del atac.varm["gene_link"]
    atac.var_names = [f"chr1:{10_000 * i}-{10_000 * i + 500}" for i in range(90)]
    data = MuData({"rna": mdata["rna"], "atac": atac})
    genes = pd.DataFrame({"chrom": "chr1", "start": 10_000 * np.arange(60) + 200, "strand": "+"})
    genes["end"], genes["gene"] = genes["start"] + 3000, mdata["rna"].var_names.to_numpy()
    before = [fingerprint(part) for part in data.mod.values()]
    with pytest.raises(ValueError, match="no chromosome is in both"):
        pp.prepare(data, annotation=genes.assign(chrom="chrX"), **QUICK)
    assert [fingerprint(part) for part in data.mod.values()] == before
    copied = pp.prepare(data, annotation=genes, copy=True, **QUICK)
    assert [fingerprint(part) for part in data.mod.values()] == before
    assert list(copied.mod) == ["rna", "atac", "gene_activity"]
    assert np.allclose(copied["gene_activity"].X.toarray(), atac.X.toarray()[:, :60])
    assert copied["atac"].obsm["X_shared"].shape == (120, 30)


@pytest.mark.parametrize(
    ("name", "types", "features", "kind"),
    [("atac", None, "p", "atac"), ("x", "Peaks", "p", "atac"), ("ADT", None, "p", "protein"),
     ("x", "Antibody Capture", "p", "protein"), ("atac", "Gene Expression", "p", "rna"), ("x", None, "p", None),
     ("x", None, "chr1:5-", "atac")],
)  # fmt: skip
def test_kinds(name, types, features, kind):
    part = AnnData(np.ones((4, 3)))
    part.var_names = [f"{features}{i + 9}" for i in range(3)]
    if types is not None:
        part.var["feature_types"] = types
    assert modality_type(name, part) == kind


def test_refusals(mdata):
    with pytest.raises(ValueError, match=r"modalities\['adt'\]='cite' must be one of"):
        pp.prepare(mdata, modalities={"rna": "rna", "adt": "cite"})
    with pytest.raises(KeyError, match="'gex'"):
        pp.prepare(mdata, modalities={"gex": "rna"})
    with pytest.raises(TypeError, match="must be a dict"):
        pp.prepare(mdata, modalities="rna")
    with pytest.raises(ValueError, match="a root needs RNA"):
        pp.prepare(mdata, modalities={"adt": "protein"}, root_cluster="early")
    with pytest.raises(ValueError, match="are for a MuData"):
        pp.prepare(mdata["rna"], modalities={"rna": "rna"})
    assert sparse.issparse(mdata["atac"].X)


def test_proteins_without_rna(mdata):
    together, alone = mdata.copy(), MuData({"adt": mdata["adt"].copy()})
    pp.prepare(together, **QUICK)
    pp.prepare(mdata=alone, n_comps=8, progress=False)
    only = mdata["adt"].copy()
    pp.prepare(only, n_comps=8, modality="protein", progress=False)
    named = mdata["adt"].copy()
    named.var["feature_types"] = "Antibody Capture"
    pp.prepare(adata=named, n_comps=8, progress=False)
    for part in (alone["adt"], only, named):
        assert np.array_equal(part.obsm["X_pca"], together["adt"].obsm["X_pca"])
        assert np.array_equal(part.X, mdata["adt"].X)
        assert "projections" in part.uns
    with pytest.raises(KeyError, match="modality='rna' is not in the data"):
        pp.prepare(MuData({"unknown": mdata["adt"].copy()}))
