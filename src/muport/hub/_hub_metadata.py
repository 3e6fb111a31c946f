"""What is needed to load a model from the hub."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import scvi.hub

from muport.data._base_model import MuDataModel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HubMetadata", "load_without_data", "model_class"]

_MODULE = "muport"
_CLASSES = ("GMM", "Integration", "Velocity")


class HubMetadata(scvi.hub.HubMetadata):  # type: ignore[misc]
    """Versions and class of a saved model, as ``scvi.hub.HubMetadata``.

    Parameters
    ----------
    scvi_version, anndata_version
        Versions with which the model was trained.
    model_cls_name
        ``"Integration"``, ``"GMM"`` or ``"Velocity"``.
    training_data_url
        Address of the data, if they are too large for the hub.
    model_parent_module
        ``"muport"``.
    """

    @classmethod
    def from_dir(
        cls, local_dir: str | Path, anndata_version: str, map_location: Any = None, **kwargs: Any
    ) -> HubMetadata:
        """Read the metadata of a saved model, as in the example of :class:`HubModel`.

        Parameters
        ----------
        local_dir
            Directory of the model.
        anndata_version
            Version of anndata with which the model was trained.
        map_location
            Not used: no tensor is read.
        kwargs
            Other fields of the metadata, such as `training_data_url`.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`muport.Integration.load`.
        """
        registry = MuDataModel.load_registry(local_dir)
        fields = {"model_parent_module": _MODULE, **kwargs}
        metadata: HubMetadata = cls(registry["scvi_version"], anndata_version, registry["model_name"], **fields)
        return metadata


def model_class(module: str, name: str) -> type[MuDataModel]:
    """Return a model class of muport by its name; a downloaded file cannot name other code.

    Raises
    ------
    ValueError
        If it names no model of muport.
    """
    if module != _MODULE or name not in _CLASSES:
        raise ValueError(
            f"the metadata name {module}.{name}, which is no model of muport (one of {list(_CLASSES)}): read models of "
            "scvi-tools with scvi.hub."
        )
    found: type[MuDataModel] = getattr(import_module(_MODULE), name)
    return found


def load_without_data(folder: str | Path) -> MuDataModel:
    """Load a saved model of any class without its data."""
    registry = MuDataModel.load_registry(folder)
    return model_class(_MODULE, registry["model_name"]).load(folder, adata=False)
