"""Velocity fields from optimal transport between cells of successive times.

:class:`Velocity` is the model. The functions of an AnnData or MuData are its steps under the names of VelOT, for use as
in scanpy; those of arrays are what both are made of.
"""

from muport.velocity._fates import cell_kernel, committor, fate_probabilities, terminal_states
from muport.velocity._flow import Paths, integrate, simulate
from muport.velocity._model import Velocity
from muport.velocity._path_tools import compute_trajectories, simulate_flow
from muport.velocity._picture_tools import project_to_embedding, project_to_umap
from muport.velocity._search import gridsearch
from muport.velocity._states import MetaStates, meta_states
from muport.velocity._tools import (
    build_windows,
    compute_ot_velocity,
    query_velocity,
    smooth_velocity,
    velocity,
)
from muport.velocity._trajectories import Trajectories

__all__ = [
    "MetaStates",
    "Paths",
    "Trajectories",
    "Velocity",
    "build_windows",
    "cell_kernel",
    "committor",
    "compute_ot_velocity",
    "compute_trajectories",
    "fate_probabilities",
    "gridsearch",
    "integrate",
    "meta_states",
    "project_to_embedding",
    "project_to_umap",
    "query_velocity",
    "simulate",
    "simulate_flow",
    "smooth_velocity",
    "terminal_states",
    "velocity",
]
