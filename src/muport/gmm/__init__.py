"""Patients as Gaussian mixtures, their distances under a learnt metric, and predictions from these."""

from muport.gmm._interpret import ComponentTypes
from muport.gmm._match import ComponentGroups
from muport.gmm._model import GMM
from muport.gmm._validate import CrossValidation, Tuning

__all__ = ["ComponentGroups", "ComponentTypes", "CrossValidation", "GMM", "Tuning"]
