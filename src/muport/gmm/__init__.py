"""Patients as Gaussian mixtures, their distances under a learnt metric, and predictions from these."""

from muport.gmm._model import GMM
from muport.gmm.interpretation._component_groups import ComponentGroups
from muport.gmm.interpretation._features_and_types import ComponentTypes
from muport.gmm.prediction._cross_validation import CrossValidation, Tuning

__all__ = ["ComponentGroups", "ComponentTypes", "CrossValidation", "GMM", "Tuning"]
