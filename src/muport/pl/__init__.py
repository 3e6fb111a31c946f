"""Pictures, drawn on matplotlib axes that the caller may bring; nothing is shown or saved."""

from muport.pl._components import components, feature_ranking
from muport.pl._confusion import confusion
from muport.pl._embedding import embedding
from muport.pl._patients import distance_map, patient_embedding
from muport.pl._trajectories import coarse_graph, fate_summary, flow, trajectories, windows
from muport.pl._velocity_field import confidence, training_curves, velocity_quiver, velocity_stream

__all__ = [
    "coarse_graph",
    "components",
    "confidence",
    "confusion",
    "distance_map",
    "embedding",
    "fate_summary",
    "feature_ranking",
    "flow",
    "patient_embedding",
    "training_curves",
    "trajectories",
    "velocity_quiver",
    "velocity_stream",
    "windows",
]
