import anndata
import mudata
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import muport
from muport.data.projection._recipe import find_recipe

QUIET = {"umap": False, "n_neighbors": 10}


@pytest.fixture(scope="module")
def counts():
    """Two types of cells with RNA counts; the second half of the cells is new."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 2.0, (2, 60))
    kind = np.arange(200) % 2
    depth = rng.uniform(0.5, 2.0, (200, 1))
    adata = anndata.AnnData(sparse.csr_matrix(rng.poisson(mean[kind] * depth).astype(np.float32)))
    adata.var_names = [f"gene{i}" for i in range(60)]
    adata.obs["cell_type"] = np.array(["a", "b"])[kind]
    return adata


@pytest.fixture(scope="module")
def multiome():
    return muport.datasets.simulated_multiome(n_cells=200, random_state=1)


def prepared(data, **options):
    data = data.copy()
    muport.pp.prepare(data, n_comps=8, **QUIET, **options)
    return data


def test_genes_that_were_not_measured_are_at_their_mean(counts):
    """Oracle: the steps by hand, with the columns of the missing genes at the mean of the reference."""
    reference, new = prepared(counts[:100], n_top_genes=30), counts[100:].copy()
    selected = np.flatnonzero(reference.var["highly_variable"])
    fewer = new[:, np.setdiff1d(np.arange(60), selected[:3])].copy()
    with pytest.raises(KeyError, match="lacks 3 of the 30 features .* allow_missing"):
        muport.pp.project(fewer, reference, allow_missing=0.05)
    with pytest.raises(ValueError, match="allow_missing"):
        muport.pp.project(fewer, reference, allow_missing=2)
    muport.pp.project(fewer, reference, allow_missing=0.1)
    recipe = find_recipe(reference, "X_pca")
    by_hand = fewer.copy()
    sc.pp.normalize_total(by_hand, target_sum=recipe.target)
    sc.pp.log1p(by_hand)
    scaled = np.minimum(by_hand[:, reference.var_names[selected[3:]]].X.toarray() * recipe.scale[3:], recipe.largest)
    expected = (scaled - recipe.mean[3:]) @ recipe.loadings[3:] - recipe.offset
    assert np.allclose(fewer.obsm["X_pca"], expected, atol=1e-4)
    complete = new.copy()
    muport.pp.project(complete, reference, allow_missing=0.5)
    muport.pp.project(new, reference)
    assert np.array_equal(complete.obsm["X_pca"], new.obsm["X_pca"])


@pytest.mark.promise("New cells get the coordinates that they would have had in the reference")
def test_cells_of_the_reference_get_their_own_coordinates(multiome):
    reference = prepared(multiome)
    again = multiome.copy()
    muport.pp.project(again, reference)
    for name, part in reference.mod.items():
        assert set(part.uns["projections"]) == {"rna": {"X_pca", "X_shared"}, "atac": {"X_lsi", "X_shared"}}[name]
        for key in part.uns["projections"]:
            assert np.allclose(again[name].obsm[key], part.obsm[key], atol=1e-4)


def test_components_are_those_of_scanpy_with_the_scaling_of_the_reference(counts):
    """Oracle: scanpy's steps by hand with the numbers of the reference."""
    reference, new = prepared(counts[:100], n_top_genes=30), counts[100:].copy()
    muport.pp.project(new, reference)
    depth = np.median(np.asarray(counts[:100].X.sum(axis=1)))
    by_hand = counts[100:].copy()
    sc.pp.normalize_total(by_hand, target_sum=depth)
    sc.pp.log1p(by_hand)
    selected = reference.var["highly_variable"].to_numpy()
    std = reference.var["std"].to_numpy()[selected]
    scaled = np.minimum(by_hand.X.toarray()[:, selected] / std, 10)
    fitted = np.minimum(reference.X.toarray()[:, selected] / std, 10)
    expected = (scaled - fitted.mean(axis=0)) @ reference.varm["PCs"][selected]
    assert np.allclose(new.obsm["X_pca"], expected, atol=1e-4)


def test_proteins_are_projected():
    rng = np.random.default_rng(2)
    proteins = anndata.AnnData(rng.poisson(5.0, (60, 12)).astype(np.float32))
    genes = anndata.AnnData(rng.poisson(3.0, (60, 40)).astype(np.float32))
    mdata = mudata.MuData({"rna": genes, "prot": proteins})
    reference = prepared(mdata)
    new = mdata.copy()
    muport.pp.project(new, reference)
    assert np.allclose(new["prot"].obsm["X_pca"], reference["prot"].obsm["X_pca"], atol=1e-4)


@pytest.mark.parametrize("method", ["pca", "cca"])
def test_the_shared_space_is_projected_from_peaks_alone(multiome, method):
    reference = multiome.copy()
    muport.pp.shared_representation(reference, method=method, n_comps=6)
    peaks = multiome["atac"].copy()
    muport.pp.project(peaks, reference, modality="atac")
    assert np.allclose(peaks.obsm["X_shared"], reference["atac"].obsm["X_shared"], atol=1e-3)


def test_the_order_of_cells_and_features_does_not_matter(counts):
    reference, rng = prepared(counts[:100]), np.random.default_rng(3)
    cells, genes = rng.permutation(100), rng.permutation(60)
    first, second = counts[100:].copy(), counts[100:][cells][:, genes].copy()
    second.layers["counts"], second.X = second.X, np.zeros(second.shape, np.float32)
    muport.pp.project(first, reference)
    muport.pp.project(second, reference)
    assert np.allclose(second.obsm["X_pca"], first.obsm["X_pca"][cells], atol=1e-5)


def test_the_recipe_survives_a_file(counts, tmp_path):
    reference = prepared(counts[:100])
    reference.write(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert find_recipe(read, "X_pca").fingerprint == find_recipe(reference, "X_pca").fingerprint
    assert find_recipe(prepared(counts[100:]), "X_pca").fingerprint != find_recipe(reference, "X_pca").fingerprint


def test_bad_inputs_are_refused_and_change_nothing(counts):
    reference, new = prepared(counts[:100]), counts[100:].copy()
    with pytest.raises(KeyError, match=r"prepare the reference"):
        muport.pp.project(new, counts)
    with pytest.raises(TypeError, match="reference is a str"):
        muport.pp.project(new, "reference")
    lacking = new[:, 5:].copy()
    with pytest.raises(KeyError, match=r"lacks 5 of the 60 features .* 'gene0'"):
        muport.pp.project(lacking, reference)
    logged = new.copy()
    sc.pp.log1p(logged)
    with pytest.raises(ValueError, match="which is not a count"):
        muport.pp.project(logged, reference)
    damaged = reference.copy()
    damaged.uns["projections"]["X_pca"]["loadings"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match="is no recipe of a projection"):
        muport.pp.project(new, damaged)
    assert not len(new.obsm)
    assert "projections" not in new.uns
