"""Scores of integrated cells, of transferred labels, and of velocities and fates.

In reading order:

- ``_cell_names``: tables matched by the names of their rows.
- ``_checked_values``: categories and numbers of cells or samples.
- ``_neighbor_scores``: labels and batches of the nearest neighbors.
- ``_foscttm``: distance of true matches between two modalities.
- ``_label_transfer_scores``: predicted labels against true ones.
- ``_velocity_scores``: direction, coherence and error of velocities.
- ``_sample_scores``: distances between samples, against what is known about the samples.
- ``_clonal_agreement``: fate probabilities against the fates of clones.
"""

from muport.metrics._clonal_agreement import clonal_agreement
from muport.metrics._foscttm import foscttm
from muport.metrics._label_transfer_scores import TransferScores, confusion_counts, label_transfer
from muport.metrics._neighbor_scores import batch_mixing, knn_labels
from muport.metrics._sample_scores import (
    replicate_retrieval,
    sample_batch_removal,
    sample_information,
    sample_trajectory,
)
from muport.metrics._velocity_scores import VelocityError, cbdir, direction_free, iccoh, velocity_error

__all__ = [
    "TransferScores", "VelocityError", "batch_mixing", "cbdir", "clonal_agreement", "confusion_counts",
    "direction_free", "foscttm", "iccoh", "knn_labels", "label_transfer", "replicate_retrieval", "sample_batch_removal",
    "sample_information", "sample_trajectory", "velocity_error",
]  # fmt: skip
