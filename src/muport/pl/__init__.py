"""Pictures, drawn on matplotlib axes that the caller may bring; nothing is shown or saved."""

from muport.pl._cohort import distance_map, patient_embedding
from muport.pl._components import components, feature_ranking
from muport.pl._confusion import confusion
from muport.pl._embedding import embedding

__all__ = ["components", "confusion", "distance_map", "embedding", "feature_ranking", "patient_embedding"]
