"""Patients as Gaussian mixtures: their distances under a learned metric, and predictions of their conditions.

In the order of reading:

- ``mixtures``: Gaussian mixtures of all patients, by expectation-maximization
- ``distances``: distances between mixtures, and between cells
- ``metric``: the learned ground metric
- ``prediction``: the classifier of conditions, cross-validation and tuning
- ``interpretation``: components matched across patients; their features, cell types and differences by condition
- ``_fitted_state``: what a fitted model keeps and saves
- ``_outcome_columns``: the outcome of patients, read from the columns of the set-up
- ``_inference``: the methods of the model after training
- ``_sample_tables``: patients as an AnnData, and tests of abundance with samples as replicates
- ``_cohort_structure``: the mean mixture of a group of patients, and trajectories of patients
- ``_condition_prediction``: the methods that predict conditions
- ``_model``: set-up and training of the model
"""

from muport.gmm._model import GMM
from muport.gmm.interpretation._cell_types import ComponentTypes
from muport.gmm.interpretation._component_groups import ComponentGroups
from muport.gmm.interpretation._mixture_barycenter import Barycenter
from muport.gmm.interpretation._patient_trajectory import PatientTrajectory
from muport.gmm.prediction._cross_validation import CrossValidation
from muport.gmm.prediction._outcome_validation import OutcomeValidation
from muport.gmm.prediction._tuning import Tuning

__all__ = [
    "Barycenter", "ComponentGroups", "ComponentTypes", "CrossValidation", "GMM", "OutcomeValidation",
    "PatientTrajectory", "Tuning",
]  # fmt: skip
