"""Models of muport on the Hugging Face Hub, by the classes of ``scvi.hub``.

In reading order:

- ``_hub_metadata``: what is needed to load a model.
- ``_model_card``: the text that describes a model to its users.
- ``_hub_model``: a folder with a model, its metadata and its card; upload and download.
"""

from muport.hub._hub_metadata import HubMetadata
from muport.hub._hub_model import HubModel
from muport.hub._model_card import HubModelCardHelper

__all__ = ["HubMetadata", "HubModel", "HubModelCardHelper"]
