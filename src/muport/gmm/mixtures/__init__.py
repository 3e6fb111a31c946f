"""Gaussian mixtures of many patients, fitted together by expectation-maximization (EM).

In the order of reading:

- ``_mixtures``: the mixtures of all patients in one padded set of arrays, and densities of cells under them
- ``_patient_cells``: the cells of each patient, and padded blocks of patients of similar size
- ``_em_settings``: the options of EM, checked
- ``_em_starts``: starts by k-means++
- ``_em_step``: one E step and one M step for a block of problems
- ``_em_blocks``: EM for a block of problems
- ``_em``: the fit of all patients
- ``_pooled_prior``: the mixture of the whole cohort, toward which each patient is shrunk
- ``_patient_offsets``: shifts of all cells of a patient, against which its components are aligned
- ``_component_number``: the choice of the number of components

Symbols: P patients, n cells, d dimensions, K components of a patient; a *problem* is one patient with one number of
components and one start, B problems are solved together in a block; w, m and S are the weight, the mean and the
covariance of a component, L is the lower Cholesky factor of S, r is a responsibility.
"""
