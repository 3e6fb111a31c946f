"""Gaussian mixtures of many patients, fitted together by expectation-maximization.

In the order of reading:

- ``_patient_cells``: the cells of each patient, in padded blocks of patients of similar size
- ``_mixtures``: the mixtures in one padded set of arrays, and densities of cells under them
- ``_em_starts``: starts by k-means++
- ``_em_step``: one E step and one M step for a block of problems
- ``_em_blocks``: blocks of problems solved together
- ``_em``: the fit of all patients
- ``_pooled_prior``: the mixture of the whole cohort, toward which each patient is shrunk
- ``_component_number``: the choice of the number of components
"""
