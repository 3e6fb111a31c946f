from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData, read_h5mu
from scipy import sparse

from muport import pp
from muport.pp._genomic_intervals import Genes, Intervals
from muport.pp._peak_gene_links import link_peaks_to_genes

GTF = """#!genome-build
chr1\tX\tgene\t1001\t2000\t.\t+\t.\tgene_id "ENSG1.2"; gene_type "protein_coding"; gene_name "A";
chr1\tX\ttranscript\t1001\t2000\t.\t+\t.\tgene_id "ENSG1.2"; gene_name "A";
chr1\tX\tgene\t5001\t7000\t.\t-\t.\tgene_id "ENSG2"; gene_type "lncRNA"; gene_name "B";
chr2\tX\tgene\t5001\t7000\t.\t-\t.\tgene_id "ENSG3"; gene_biotype "protein_coding";
chr2\tX\tgene\t1\t700\t.\t+\t.\tgene_id "ENSG4"; gene_type "pseudogene"; gene_name "P";
"""
BED = "track name=genes\nchr1\t1000\t2000\tA\t0\t+\nchr1\t5000\t7000\tB\t0\t-\nchr2\t5000\t7000\tENSG3\t0\t-\n"


def by_loops(peaks: Intervals, genes: Genes, upstream: int, downstream: int, body: bool, decay: float | None) -> dict:
    found: dict[tuple[int, str], float] = {}
    for i in range(len(peaks)):
        for j in range(len(genes.name)):
            if peaks.chrom[i] != genes.intervals.chrom[j]:
                continue
            start, end = int(genes.intervals.start[j]), int(genes.intervals.end[j])
            tss = start if genes.forward[j] else end - 1
            target = (start, end) if body else (tss, tss + 1)
            before, after = (upstream, downstream) if genes.forward[j] else (downstream, upstream)
            if peaks.start[i] < target[1] + after and peaks.end[i] > target[0] - before:
                d = max(target[0] - int(peaks.end[i]), int(peaks.start[i]) - target[1], 0)
                weight = 1.0 if decay is None else np.exp(-d / decay)
                key = (i, str(genes.name[j]))
                found[key] = max(found.get(key, 0.0), weight)
    return found


@st.composite
def layouts(draw):
    spans = st.tuples(st.sampled_from(["1", "2", "X"]), st.integers(0, 300), st.integers(1, 120))
    peaks = draw(st.lists(spans, min_size=1, max_size=12))
    genes = draw(st.lists(st.tuples(spans, st.booleans(), st.sampled_from("abcdef")), min_size=1, max_size=8))
    return peaks, genes


def intervals(spans: list[tuple[str, int, int]]) -> Intervals:
    chrom, start, length = zip(*spans, strict=True)
    return Intervals(np.array(chrom), np.array(start), np.array(start) + np.array(length))


@given(layouts(), st.integers(0, 60), st.integers(0, 60), st.booleans(), st.sampled_from([None, 25.0]))
def test_links_are_those_of_two_loops(layout, upstream, downstream, body, decay):
    peaks, spans = layout
    genes = Genes(intervals([g[0] for g in spans]), np.array([g[2] for g in spans]), np.array([g[1] for g in spans]))
    peaks = intervals(peaks)
    expected = by_loops(peaks, genes, upstream, downstream, body, decay)
    rule = {"upstream": upstream, "downstream": downstream, "body": body, "decay": decay}
    if not expected:
        with pytest.raises(ValueError, match=r"no peak lies within|no chromosome is in both"):
            link_peaks_to_genes(peaks, genes, **rule)
        return
    weights, names = link_peaks_to_genes(peaks, genes, **rule)
    held = weights.tocoo()
    found = {(int(i), str(names[j])): float(w) for i, j, w in zip(held.row, held.col, held.data, strict=True)}
    assert found == pytest.approx(expected, rel=1e-6)
    assert (np.diff(weights.tocsc().indptr) > 0).all()


@pytest.fixture
def atac() -> AnnData:
    rng = np.random.default_rng(0)
    names = ["chr1:900-1100", "chr1:2500-2600", "chr1:7500-7600", "chr2:6900-7001", "chr2:0-300"]
    adata = AnnData(sparse.csr_matrix(rng.poisson(1.0, (30, 5)).astype(np.float32)))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(30)], names
    adata.obs["batch"] = "b"
    return adata


@pytest.fixture
def gtf(tmp_path):
    (tmp_path / "genes.gtf").write_text(GTF)
    return tmp_path / "genes.gtf"


def test_weights_of_a_gtf_by_hand(atac, gtf):
    found = pp.gene_activity(atac, gtf)
    x = atac.X.toarray()
    assert list(found.var_names) == ["A", "B", "ENSG3"]
    assert sparse.issparse(found.X)
    # the last base of B is 6999: 500 bases lie between it and the peak
    assert np.allclose(found.X.toarray(), np.column_stack([x[:, 0], x[:, 2] * np.exp(-500 / 2000), x[:, 3]]), atol=1e-5)
    assert found.var["n_peaks"].tolist() == [1, 1, 1]
    assert found.obs["batch"].tolist() == ["b"] * 30
    assert list(pp.gene_activity(atac, gtf, biotypes=None).var_names) == ["A", "B", "ENSG3", "P"]
    wider = pp.gene_activity(atac, gtf, downstream=1600, decay=None)
    assert np.allclose(wider.X.toarray()[:, 0], x[:, 0] + x[:, 1])


def test_every_way_to_give_genes_is_the_same(atac, gtf, tmp_path):
    expected = pp.gene_activity(atac, gtf)
    (tmp_path / "genes.bed").write_text(BED)
    with gzip.open(tmp_path / "genes.gtf.gz", "wt") as file:
        file.write(GTF)
    with gzip.open(tmp_path / "genes.bed.gz", "wt") as file:
        file.write(BED)
    table = pd.read_csv(tmp_path / "genes.bed", sep="\t", skiprows=1, header=None)
    table = table.set_axis(["Chromosome", "Start", "End", "gene_name", "score", "Strand"], axis=1)
    plain = table.assign(Chromosome=table["Chromosome"].str[3:])
    ways = [str(tmp_path / "genes.bed"), tmp_path / "genes.gtf.gz", tmp_path / "genes.bed.gz", table, plain]
    for annotation in ways:
        found = pp.gene_activity(atac, annotation)
        assert list(found.var_names) == list(expected.var_names)
        assert (found.X != expected.X).nnz == 0


def test_every_way_to_name_peaks_is_the_same(atac, gtf):
    expected = pp.gene_activity(atac, gtf).X
    for separators in ("--", "__", ":_"):
        other = atac.copy()
        parts = other.var_names.str.extract(r"(.+):(\d+)-(\d+)")
        other.var_names = [f"{a}{separators[0]}{b}{separators[1]}{c}" for a, b, c in parts.to_numpy()]
        assert (pp.gene_activity(other, gtf).X != expected).nnz == 0
    other.var_names = [f"p{i}" for i in range(5)]
    other.var[["chrom", "start", "end"]] = parts.to_numpy()
    assert (pp.gene_activity(other, gtf).X != expected).nnz == 0


def test_given_links(atac):
    link_matrix = sparse.random(5, 3, 0.6, random_state=0, format="csr")
    atac.varm["gene_link"], atac.uns["gene_link_genes"] = link_matrix, np.array(["x", "y", "z"], dtype=object)
    found = pp.gene_activity(atac)
    assert np.allclose(found.X.toarray(), atac.X.toarray() @ link_matrix.toarray(), atol=1e-5)
    atac.varm["table"] = pd.DataFrame(link_matrix.toarray(), index=atac.var_names, columns=["x", "y", "z"])
    assert np.allclose(pp.gene_activity(atac, link_key="table").X.toarray(), found.X.toarray())


def test_modality_of_a_mudata_and_its_file(atac, gtf, tmp_path):
    rna = AnnData(np.ones((30, 2), np.float32))
    rna.obs_names, rna.var_names = atac.obs_names, ["A", "B"]
    mdata = MuData({"rna": rna, "atac": atac})
    copied = pp.gene_activity(mdata, gtf, copy=True)
    assert list(mdata.mod) == ["rna", "atac"]
    assert pp.gene_activity(mdata, gtf) is None
    assert mdata["gene_activity"].shape == copied["gene_activity"].shape == (30, 3)
    assert list(mdata["gene_activity"].obs.columns) == []
    mdata.write(tmp_path / "m.h5mu")
    again = read_h5mu(tmp_path / "m.h5mu")
    assert (again["gene_activity"].X != mdata["gene_activity"].X).nnz == 0
    del again.mod["gene_activity"]
    pp.gene_activity(again)
    assert np.allclose(again["gene_activity"].X.toarray(), mdata["gene_activity"].X.toarray())


def table(**change: object) -> pd.DataFrame:
    columns = {"chrom": ["chr1"], "start": [1000], "end": [2000], "strand": ["+"], "gene": ["A"]}
    return pd.DataFrame(columns | change)


BAD = {
    "no links": (None, KeyError, "link_key='gene_link'"),
    "no file": ("nowhere.gtf", FileNotFoundError, "nowhere.gtf"),
    "format": ("genes.txt", ValueError, r"must end in \.gtf or \.bed"),
    "kind": (3, TypeError, "annotation is a int"),
    "column": (table().drop(columns="strand"), KeyError, "strand"),
    "strand": (table(strand=["."]), ValueError, r"no gene with a name, a strand"),
    "chromosome": (table(chrom=["chr9"]), ValueError, r"no chromosome is in both.*chr9|no chromosome.*'9'"),
    "far": (table(start=[90000], end=[91000]), ValueError, "no peak lies within 2000 bases"),
    "interval": (table(end=[500]), ValueError, "chr1:1000-500"),
    "position": (table(start=["a"]), ValueError, "intervals are invalid"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(atac, case):
    annotation, error, message = BAD[case]
    with pytest.raises(error, match=message):
        pp.gene_activity(atac, annotation)


def test_more_refusals(atac, gtf, tmp_path):
    for name, text in {"a.gtf": "chr1\t1\n", "b.bed": "chr1\t1\t2\n", "c.gtf": "", "d.gtf.gz": "no gzip"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name[0]}\.\w+"):
            pp.gene_activity(atac, tmp_path / name)
    with pytest.raises(ValueError, match="upstream=-1"):
        pp.gene_activity(atac, gtf, upstream=-1)
    with pytest.raises(ValueError, match="decay=0"):
        pp.gene_activity(atac, gtf, decay=0)
    atac.var_names = ["chr1:900-1100", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="4 of 5 features are not named like 'chr1:100-200', for example 'b'"):
        pp.gene_activity(atac, gtf)


def test_chromosomes_are_matched_where_only_scaffolds_are_spelled_alike():
    peaks = Intervals(np.array(["chr1", "chrM", "GL1.1"]), np.array([0, 0, 0]), np.array([9, 9, 9]))
    for names in (["1", "MT", "GL1.1"], ["chr1", "chrM", "GL1.1"], ["Chr1", "chrMT", "chrGL1.1"]):
        genes = Genes(
            Intervals(np.array(names), *(np.full(3, i) for i in (5, 99))), np.array(["a", "m", "g"]), np.ones(3, bool)
        )
        weights, found = link_peaks_to_genes(peaks, genes, upstream=10, downstream=0, body=False, decay=None)
        assert found.tolist() == ["a", "m", "g"]
        assert weights.toarray().tolist() == np.eye(3).tolist()
