"""A folder with a model, its metadata and its card; upload and download."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scvi.hub

from muport.data._hidden_methods import HiddenMethod
from muport.data._model_files import DOCUMENT, data_file, read_document
from muport.data._saved_data import read_data
from muport.hub._hub_metadata import model_class

if TYPE_CHECKING:
    import anndata
    import mudata

__all__ = ["HubModel"]

#: Files of a model; those of the data are left out if they are not wanted. A model that replaced another one in its
#: directory has a hash in the names of its files.
_MODEL_FILES = ["model*.safetensors", DOCUMENT, "_scvi_required_metadata.json", "README.md"]
_DATA_FILES = ["adata*.h5ad", "mdata*.h5mu"]


class HubModel(scvi.hub.HubModel):  # type: ignore[misc]
    """A model in a folder or on the Hugging Face Hub, as ``scvi.hub.HubModel``.

    Parameters
    ----------
    local_dir
        Directory in which the model was saved.
    repo_name
        Name of the repository on the hub.
    metadata
        :class:`HubMetadata`, or a file with them; by default those in the directory.
    model_card
        :class:`HubModelCardHelper`, a ``huggingface_hub.ModelCard``, or a file with it; by default that in the
        directory.

    Raises
    ------
    ModuleNotFoundError
        Without huggingface_hub: ``pip install "muport[hub]"``.
    ValueError
        If there are no metadata, or no card.

    Examples
    --------
    >>> import tempfile, muport
    >>> rna = muport.datasets.simulated_multiome(n_cells=300, random_state=0)["rna"]
    >>> rna.obsm["X_pca"] = rna.X[:, :10].toarray()
    >>> muport.Integration.setup_anndata(rna, use_rep="X_pca", batch_key="batch")
    >>> model = muport.Integration(rna)
    >>> model.train(progress=False)
    >>> folder = tempfile.mkdtemp()
    >>> model.save(folder, overwrite=True, save_anndata=True)
    >>> metadata = muport.hub.HubMetadata.from_dir(folder, anndata_version="0.13.0")
    >>> card = muport.hub.HubModelCardHelper.from_dir(folder, license_info="cc-by-4.0", anndata_version="0.13.0")
    >>> hub_model = muport.hub.HubModel(folder, metadata=metadata, model_card=card)
    >>> hub_model.metadata.model_cls_name, hub_model.model_card.data.license
    ('Integration', 'cc-by-4.0')
    >>> hub_model.save()
    >>> muport.hub.HubModel(folder).model.get_latent_representation().shape
    (300, 10)
    """

    push_to_s3 = HiddenMethod("upload the files of local_dir with boto3")
    pull_from_s3 = HiddenMethod("download the folder with boto3, and pass it as local_dir")

    def load_model(
        self,
        adata: anndata.AnnData | mudata.MuData | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> None:
        """Load the model, which ``model`` then returns.

        Parameters
        ----------
        adata
            Data of the model; those in the directory by default. Without any, the model can describe new cells only.
        accelerator, device
            As in :meth:`muport.Integration.load`.

        Raises
        ------
        ValueError
            If the metadata name no model of muport.
        """
        cls = model_class(self.metadata.model_parent_module, self.metadata.model_cls_name)
        saved = self._data_file()
        # data that were saved with the model may have been left out of the download
        data = False if adata is None and saved is not None and not saved[0].is_file() else adata
        self._model = cls.load(self.local_dir, adata=data, accelerator=accelerator, device=device)

    def read_adata(self) -> None:
        """Read the data that were saved with the model, which ``adata`` then returns; None if there are none."""
        saved = self._data_file()
        self._adata = read_data(*saved) if saved is not None and saved[0].is_file() else None

    def _data_file(self) -> tuple[Path, str | None] | None:
        """File of the data that were saved with the model, and its checksum; it may be absent."""
        folder = Path(self.local_dir)
        return data_file(folder, read_document(folder))

    def push_to_huggingface_hub(self, repo_name: str, *args: Any, **kwargs: Any) -> None:
        """Upload the model, its metadata and its card to the hub.

        Parameters
        ----------
        repo_name
            Name of the repository, ``"user/name"``.
        args, kwargs
            As for ``scvi.hub.HubModel.push_to_huggingface_hub``: `repo_token`, `repo_create`, `push_anndata` and so on.
        """
        with warnings.catch_warnings():
            # scvi-tools has collections for its own models only
            warnings.filterwarnings("ignore", message="No collection found")
            super().push_to_huggingface_hub(repo_name, *args, **kwargs)

    @classmethod
    def pull_from_huggingface_hub(
        cls,
        repo_name: str,
        cache_dir: str | None = None,
        revision: str | None = None,
        pull_anndata: bool = True,
        **kwargs: Any,
    ) -> HubModel:
        """Download a model, its metadata and its card from the hub; no code in the files is run.

        Parameters
        ----------
        repo_name
            Name of the repository, ``"user/name"``.
        cache_dir
            Directory of the downloaded files; that of huggingface_hub by default.
        revision
            Branch, tag or commit; the newest by default.
        pull_anndata
            Download the data, too, if there are any.
        kwargs
            Passed to ``huggingface_hub.snapshot_download``.

        Raises
        ------
        ModuleNotFoundError
            Without huggingface_hub: ``pip install "muport[hub]"``.
        ValueError
            If the repository has no metadata, or no card.
        """
        from huggingface_hub import snapshot_download

        wanted = _MODEL_FILES + (_DATA_FILES if pull_anndata else [])
        folder = snapshot_download(
            repo_id=repo_name, allow_patterns=wanted, cache_dir=cache_dir, revision=revision, **kwargs
        )
        return cls(folder, repo_name=repo_name)

    def __repr__(self) -> str:
        """Describe the model in a line; that of scvi-tools prints the card."""
        names = f"local_dir={self.local_dir!r}, repo_name={self.repo_name!r}"
        return f"HubModel({names}) of a muport.{self.metadata.model_cls_name}"
