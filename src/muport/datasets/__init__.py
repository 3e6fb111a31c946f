"""Simulated data sets, of which everything is known, and measured ones.

In reading order:

- ``_simulated_multiome``: genes and peaks of the same cells, in batches.
- ``_simulated_cohort``: patients whose condition changes a cell state or its proportion.
- ``_simulated_dynamics``: cells on curves with known velocities.
- ``_measured``: the catalog of measured data sets and how to read them.
- ``_representations``: the representation of each modality of a measured data set.
"""

from muport.datasets._measured import BATCH_DATASETS, available, load, names, pbmc68k_reduced
from muport.datasets._representations import represent
from muport.datasets._simulated_cohort import simulated_cohort
from muport.datasets._simulated_dynamics import simulated_dynamics
from muport.datasets._simulated_multiome import simulated_multiome

__all__ = [
    "BATCH_DATASETS", "available", "load", "names", "pbmc68k_reduced", "represent", "simulated_cohort",
    "simulated_dynamics", "simulated_multiome",
]  # fmt: skip
