"""Velocity fields from optimal transport between cells of successive times.

:class:`Velocity` is the model. Its steps are also functions of an AnnData or MuData, under the names of VelOT, for use
as in scanpy, and functions of arrays.

In the order of reading:

- ``_hyperparameters``: all choices of the method, and the range of each
- ``estimation``: from cells and times to a velocity field
- ``dynamics``: paths through the field
- ``fates``: the Markov chain of cells, its terminal states, macrostates and drivers
- ``timecourse``: plans between the cells of measured days, and populations that follow them
- ``_course_columns``: expected growth rates, clones, samples and conditions of the cells
- ``_fitted_state``: what a fitted model keeps and saves
- ``_inference``: methods after training that evaluate the field, or follow it
- ``_fate_inference``: methods after training that read the Markov chain of cells
- ``_perturbation_inference``: methods after training that change features of cells and follow them
- ``_time_course_inference``: methods after training that follow populations between the measured days
- ``_population_inference``: methods after training that predict the cells of times that were not measured
- ``_model``: the model class, set-up and training
- ``velot``: the steps as functions of an AnnData or MuData
"""

from muport.velocity._model import Velocity
from muport.velocity._perturbation_inference import Perturbation
from muport.velocity.dynamics._ode import integrate
from muport.velocity.dynamics._path_clusters import Trajectories
from muport.velocity.dynamics._paths import Paths
from muport.velocity.dynamics._sde import simulate
from muport.velocity.fates._fate_probabilities import committor, fate_probabilities
from muport.velocity.fates._macrostates import MetaStates, meta_states
from muport.velocity.fates._terminal_states import terminal_states
from muport.velocity.fates._transition_matrix import cell_kernel
from muport.velocity.timecourse._populations import Coupling
from muport.velocity.velot._gridsearch import gridsearch
from muport.velocity.velot._projection_functions import project_to_embedding, project_to_umap
from muport.velocity.velot._trajectory_functions import compute_trajectories, simulate_flow
from muport.velocity.velot._velocity_steps import (
    build_windows,
    compute_ot_velocity,
    query_velocity,
    smooth_velocity,
    velocity,
)

__all__ = [
    "Coupling", "MetaStates", "Paths", "Perturbation", "Trajectories", "Velocity", "build_windows", "cell_kernel",
    "committor", "compute_ot_velocity", "compute_trajectories", "fate_probabilities", "gridsearch", "integrate",
    "meta_states", "project_to_embedding", "project_to_umap", "query_velocity", "simulate", "simulate_flow",
    "smooth_velocity", "terminal_states", "velocity",
]  # fmt: skip
