"""Plots, drawn on matplotlib axes that the caller may pass; nothing is shown or saved.

In the order of reading:

- ``_axes``: new axes, dots and legends in one style
- ``_colors``: colors of categories
- ``_obs_and_obsm``: coordinates and columns of an AnnData or MuData, found by key
- ``_embedding``: cells in two dimensions
- ``_confusion``: predicted against true labels
- ``_patients``: patients in two dimensions, and the distances between them
- ``_mixture_components``: mixture components, and the features of an axis
- ``_velocity_field``: streamlines and arrows of velocities, confidence, training losses
- ``_paths_and_fates``: trajectories, flows, fates, windows and the graph of macrostates
"""

from muport.pl._confusion import confusion
from muport.pl._embedding import embedding
from muport.pl._mixture_components import components, feature_ranking
from muport.pl._paths_and_fates import coarse_graph, fate_summary, flow, trajectories, windows
from muport.pl._patients import distance_map, patient_embedding
from muport.pl._velocity_field import confidence, training_curves, velocity_quiver, velocity_stream

__all__ = [
    "coarse_graph", "components", "confidence", "confusion", "distance_map", "embedding", "fate_summary",
    "feature_ranking", "flow", "patient_embedding", "training_curves", "trajectories", "velocity_quiver",
    "velocity_stream", "windows",
]  # fmt: skip
