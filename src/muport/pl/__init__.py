"""Plots with the arguments of scanpy, drawn on axes that the caller may pass; shown or saved only if asked.

In the order of reading:

- ``drawing``: what all plots share: values by key, colors, panels, legends, and finished figures
- ``_embedding``: cells in two dimensions
- ``_before_and_after``: cells before and after an integration
- ``_confusion``: predicted against true labels
- ``_prediction_confidence``: confidence of transferred labels
- ``_label_flow``: Sankey diagram of labels, or of transitions between days
- ``_patients``: patients in two dimensions, and the distances between them
- ``_mixture_components``: mixture components, and the features of an axis
- ``_velocity_field``: streamlines and arrows of velocities, confidence, training losses
- ``_paths_over_cells``: trajectories, flows and windows
- ``_fates_and_states``: fates of groups, and the graph of macrostates
- ``_circular_projection``: fates as positions within a circle
- ``_gene_trends``: expression along a pseudotime
"""

from muport.pl._before_and_after import before_and_after
from muport.pl._circular_projection import circular_projection
from muport.pl._confusion import confusion
from muport.pl._embedding import embedding
from muport.pl._fates_and_states import coarse_graph, fate_summary
from muport.pl._gene_trends import driver_heatmap, gene_trends
from muport.pl._label_flow import sankey
from muport.pl._mixture_components import components, feature_ranking
from muport.pl._paths_over_cells import flow, trajectories, windows
from muport.pl._patients import distance_map, patient_embedding
from muport.pl._prediction_confidence import prediction_confidence
from muport.pl._velocity_field import confidence, training_curves, velocity_quiver, velocity_stream

__all__ = [
    "before_and_after", "circular_projection", "coarse_graph", "components", "confidence", "confusion",
    "distance_map", "driver_heatmap", "embedding", "fate_summary", "feature_ranking", "flow", "gene_trends",
    "patient_embedding", "prediction_confidence", "sankey", "training_curves", "trajectories", "velocity_quiver",
    "velocity_stream", "windows",
]  # fmt: skip
