"""A model goes to the hub and back; the hub is a folder of this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scvi.hub

import muport

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def model():
    rna = muport.datasets.simulated_multiome(n_cells=300, random_state=0)["rna"].copy()
    rna.obsm["X_pca"] = rna.X[:, :10].toarray()
    muport.Integration.setup_anndata(rna, use_rep="X_pca", batch_key="batch")
    model = muport.Integration(rna)
    model.train(progress=False)
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    return str(tmp_path / "model")


def describe(folder, **options):
    metadata = muport.hub.HubMetadata.from_dir(folder, anndata_version="0.13.0")
    card = muport.hub.HubModelCardHelper.from_dir(folder, license_info="cc-by-4.0", anndata_version="0.13.0", **options)
    return muport.hub.HubModel(folder, metadata=metadata, model_card=card)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in place of the hub: files are copied to it, and from it."""
    remote = tmp_path / "hub"

    class Api:
        token = None

        def __init__(self, **_):
            pass

        def upload_file(self, path_or_fileobj, path_in_repo, **_):
            (remote / path_in_repo).write_bytes(path_or_fileobj)

        def upload_folder(self, folder_path, ignore_patterns=(), **_):
            skipped = shutil.ignore_patterns(*ignore_patterns)
            shutil.copytree(folder_path, remote, dirs_exist_ok=True, ignore=skipped)

    def snapshot_download(repo_id, allow_patterns, cache_dir, **_):
        Path(cache_dir).mkdir(exist_ok=True)
        for file in remote.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, cache_dir)
        return str(cache_dir)

    remote.mkdir()
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(
        huggingface_hub.ModelCard, "push_to_hub", lambda card, *_, **__: card.save(remote / "README.md")
    )
    return remote


@pytest.mark.parametrize("with_data", [True, False])
def test_a_model_goes_to_the_hub_and_back(model, folder, hub, tmp_path, with_data):
    describe(folder).push_to_huggingface_hub("someone/model", push_anndata=with_data)
    assert (hub / "adata.h5ad").is_file() == with_data
    pulled = muport.hub.HubModel.pull_from_huggingface_hub("someone/model", cache_dir=str(tmp_path / "cache"))
    assert isinstance(pulled, scvi.hub.HubModel)
    assert pulled.metadata.model_cls_name == "Integration"
    assert "someone/model" in repr(pulled)
    if with_data:
        latent = pulled.model.get_latent_representation()
        assert pulled.adata.n_obs == 300
    else:
        pulled.load_model(adata=model.adata)
        latent = pulled.model.get_latent_representation()
    np.testing.assert_array_equal(latent, model.get_latent_representation())


def test_a_model_that_replaced_another_one_goes_to_the_hub_and_back(model, folder, hub, tmp_path):
    other = muport.Integration(model.adata, strength=0.8)
    other.train(progress=False)
    other.save(folder, overwrite=True, save_anndata=True)
    describe(folder).push_to_huggingface_hub("someone/model")
    pulled = muport.hub.HubModel.pull_from_huggingface_hub("someone/model", cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(pulled.model.get_latent_representation(), other.get_latent_representation())
    assert pulled.adata.n_obs == 300


def test_a_model_without_its_data_describes_new_cells(model, folder, hub, tmp_path):
    describe(folder).push_to_huggingface_hub("someone/model")
    cache = str(tmp_path / "cache")
    pulled = muport.hub.HubModel.pull_from_huggingface_hub("someone/model", cache_dir=cache, pull_anndata=False)
    assert pulled.adata is None
    new = model.adata[::7].copy()
    np.testing.assert_array_equal(pulled.model.map_query(new), model.map_query(new))


def test_the_card_says_what_the_model_is(model, folder):
    card = describe(folder, description="Blood of two donors.", tissues=["blood"], data_modalities=["rna"]).model_card
    assert {"model_cls_name:Integration", "tissue:blood", "modality:rna"} <= set(card.data.tags)
    assert card.data.library_name == "muport"
    for text in ("Blood of two donors.", '"batch_key": "batch"', "setup_anndata", "n_batch", "neighbors_kept"):
        assert text in card.content


def test_files_beside_the_model_are_read_and_not_overwritten(folder):
    describe(folder).save()
    assert muport.hub.HubModel(folder).metadata.model_parent_module == "muport"
    with pytest.raises(FileExistsError, match="overwrite"):
        describe(folder).save()


def test_other_code_is_not_imported(folder):
    describe(folder).save()
    file = Path(folder) / "_scvi_required_metadata.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"model_parent_module": "os", "model_cls_name": "system"})
    )
    with pytest.raises(ValueError, match=r"os\.system, which is no model of muport"):
        muport.hub.HubModel(folder).load_model()


def test_what_is_absent_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        muport.hub.HubMetadata.from_dir(tmp_path, anndata_version="0.13.0")
    with pytest.raises(ValueError, match="No metadata found"):
        muport.hub.HubModel(str(tmp_path))
    assert not hasattr(muport.hub.HubModel, "push_to_s3")
