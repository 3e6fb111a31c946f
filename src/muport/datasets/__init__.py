"""Simulated data sets, of which everything is known, and measured ones.

In reading order:

- ``_simulated_multiome``: genes and peaks of the same cells, in batches.
- ``_simulated_cohort``: patients whose condition changes a cell state or its proportion.
- ``_simulated_dynamics``: cells on curves with known velocities.
- ``_measured``: measured data sets by name.
- ``_catalog``: files, licences and citations of the measured data sets.
- ``_stored_files``: their files, in a folder of the user or downloaded.
- ``_representations``: the representation of each modality of a measured data set.
"""

from muport.datasets._catalog import DatasetInfo
from muport.datasets._measured import BATCH_DATASETS, available, info, load, names, pbmc68k_reduced
from muport.datasets._representations import represent
from muport.datasets._simulated_cohort import simulated_cohort
from muport.datasets._simulated_dynamics import simulated_dynamics
from muport.datasets._simulated_multiome import simulated_multiome

__all__ = [
    "BATCH_DATASETS", "DatasetInfo", "available", "info", "load", "names", "pbmc68k_reduced", "represent",
    "simulated_cohort", "simulated_dynamics", "simulated_multiome",
]  # fmt: skip
