"""Data to try, test and measure on: simulated with everything known, and measured."""

from muport.datasets._measured import BATCH_DATASETS, available, load, names, pbmc68k_reduced
from muport.datasets._representations import represent
from muport.datasets._simulated_cohort import simulated_cohort
from muport.datasets._simulated_dynamics import simulated_dynamics
from muport.datasets._simulated_multiome import simulated_multiome

__all__ = [
    "BATCH_DATASETS",
    "available",
    "load",
    "names",
    "pbmc68k_reduced",
    "represent",
    "simulated_cohort",
    "simulated_dynamics",
    "simulated_multiome",
]
