"""Scores of integrated cells and of transferred labels."""

from muport.metrics._matching import foscttm
from muport.metrics._neighborhood import batch_mixing, knn_labels
from muport.metrics._transfer import TransferScores, confusion_counts, label_transfer

__all__ = ["TransferScores", "batch_mixing", "confusion_counts", "foscttm", "knn_labels", "label_transfer"]
