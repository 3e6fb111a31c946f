import numpy as np
import pytest

import muport

SPACES = {"use_rep": {"rna": "X_pca", "atac": "X_lsi"}, "shared_rep": "X_shared", "labels_key": "rna:cell_type"}


@pytest.fixture(scope="module")
def cells():
    return muport.datasets.simulated_multiome(n_cells=240, random_state=3)


@pytest.fixture(scope="module")
def new(cells):
    return cells[np.r_[200:240, 440:480]].copy()


@pytest.fixture(scope="module")
def model(cells):
    train = cells[np.r_[0:200, 240:440]].copy()
    muport.pp.prepare(train, n_comps=8, umap=False)
    muport.Integration.setup_mudata(train, **SPACES)
    model = muport.Integration(train)
    model.train(progress=False)
    return model


@pytest.mark.promise("A model projects new cells from their counts, also after it was saved")
def test_new_cells_are_projected_from_counts(model, new, tmp_path):
    before = new.copy()
    latent = model.map_query(new)
    by_hand = muport.pp.project(new, model, copy=True)
    assert np.array_equal(latent, model.map_query(by_hand))
    model.save(tmp_path / "model")
    loaded = muport.Integration.load(tmp_path / "model", adata=False, accelerator="cpu")
    assert np.array_equal(loaded.map_query(new), latent)
    assert all(not len(new[name].obsm) for name in new.mod)
    assert all(new[name].uns.keys() == before[name].uns.keys() for name in new.mod)


def test_labels_of_held_out_cells_are_those_of_cells_in_the_fit(model, cells, new):
    predicted = model.predict(mdata=new)[new["rna"].obs_names].to_numpy()
    assert np.mean(predicted == new["rna"].obs["cell_type"].to_numpy()) > 0.9


@pytest.mark.promise("Coordinates that were computed for the new cells alone are refused")
@pytest.mark.parametrize("described", [True, False])
def test_another_preparation_is_refused(model, new, described):
    other = new.copy()
    muport.pp.prepare(other, n_comps=8, umap=False)
    if not described:
        for name in other.mod:
            del other[name].uns["projections"]
    with pytest.raises(ValueError, match=r"not in the space of the model. Delete obsm"):
        model.map_query(other)


def test_what_cannot_be_projected_is_named(model, new):
    for name in ("rna", "atac"):
        wrong = new.copy()
        wrong[name].X = wrong[name].X * 0.5
        with pytest.raises(ValueError, match=rf"obsm\['X_shared'\] of '{name}' is missing, and is projected"):
            model.map_query(wrong)


def test_an_own_representation_that_the_model_needs_is_named(model, new):
    without_counts = muport.pp.project(new, model, copy=True)
    for name, key in (("rna", "X_pca"), ("atac", "X_lsi")):
        part = without_counts[name]
        del part.obsm[key]
        part.X = part.X * 0.5
    with pytest.raises(KeyError, match=r"lack the own representation of modality 'rna' \(use_rep\)"):
        model.map_query(without_counts)


def test_coordinates_without_counts_are_taken_as_they_are(model, new):
    projected = muport.pp.project(new, model, copy=True)
    expected = model.map_query(projected)
    for name in projected.mod:
        projected[name].X = projected[name].X * 0.5
        del projected[name].uns["projections"]
    assert np.array_equal(model.map_query(projected), expected)
