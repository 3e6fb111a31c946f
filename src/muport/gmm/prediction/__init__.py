"""Prediction of the condition of new patients.

In the order of reading:

- ``_patient_classifier``: several views of the distances, weighted by their held-out predictions
- ``_cross_validation``: cross-validation and tuning, with everything refitted inside each fold
"""
