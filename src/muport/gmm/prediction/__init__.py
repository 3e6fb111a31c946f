"""Prediction of the condition, or of another outcome, of new patients.

In the order of reading:

- ``_view_weights``: weights of several views, shrunk toward the simplest
- ``_patient_classifier``: several distances, weighted by their predictions of held-out patients
- ``_labeled_cells``: the cells of patients of known condition, checked
- ``_cross_validation``: predictions for held-out patients, with everything fitted again in each fold
- ``_tuning``: the choice of options by nested cross-validation
- ``_outcomes``: outcomes that are not classes: ordered levels, numbers, times to an event
- ``_outcome_fits``: how predictions of one view become probabilities of an outcome
- ``_outcome_predictor``: regressions on all views, weighted as those of conditions
- ``_outcome_validation``: cross-validation of outcomes

Symbols: P patients, Q new patients, C conditions, F folds, R sets of permuted conditions.
"""
