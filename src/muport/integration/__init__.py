"""Integration of batches and modalities by optimal transport to shared centers.

In the order of reading:

- ``_model``: the Integration model: set-up, options and training
- ``_inference``: the methods of a fitted integration
- ``_design_of_rows``: the batch variables and the covariates of the cells
- ``_label_fit``: the label model, fitted to the integrated cells
- ``_cell_maps``: the maps of the cells, also of groups that are new
- ``_written_results``: the results written to the data, as scanpy and muon read them
- ``_feature_values``: the values of the features, read by name and filled in
- ``_corrected_expression``: values without the effects of the batches
- ``_batch_effects``: the effects of the batches on the features
- ``_working_space``: the space of the transport, for each kind of data
- ``_fitted_cells``: the cells of the fit, recognized by a code
- ``_fitted_state``: what a fitted model keeps, and the map of every cell
- ``_hyperparameters``: the six hyperparameters, and the quantities that the method derives from them
- ``_batch_design``: what is asked of each batch variable
- ``batch_variables``: several batch variables and continuous covariates
- ``prototypes``: k-means summaries of each group
- ``shared_centers``: the default method
- ``spaces``: the space in which modalities are compared
- ``gromov``: modalities without shared features or paired cells
- ``labels``: transfer of labels, and separation of types
- ``vae``: the VAE that refines integrated cells
- ``scbiot``: the loop of the scBIOT paper
- ``atlas``: integration by centroids, with cells on disk

The model is imported when it is first used: integration by centroids, and the workers of a cluster, do not need
scvi-tools and its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muport.integration._model import Integration

__all__ = ["Integration"]


def __getattr__(name: str) -> Any:
    if name != "Integration":
        raise AttributeError(f"module 'muport.integration' has no attribute {name!r}")
    from muport.integration._model import Integration

    return Integration
