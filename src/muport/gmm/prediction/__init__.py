"""Prediction of the condition of new patients.

In the order of reading:

- ``_view_weights``: weights of several views, shrunk toward the simplest
- ``_patient_classifier``: several distances, weighted by their predictions of held-out patients
- ``_labeled_cells``: the cells of patients of known condition, checked
- ``_cross_validation``: predictions for held-out patients, with everything fitted again in each fold
- ``_tuning``: the choice of options by nested cross-validation

Symbols: P patients, Q new patients, C conditions, F folds, R sets of permuted conditions.
"""
