"""What the components and the learned axes mean.

In the order of reading:

- ``_component_groups``: components matched across patients
- ``_features``: features of axes and of components, ranked
- ``_enrichment``: sets of features enriched in them, with decoupler
- ``_cell_types``: the cell types of matched components
- ``_condition_effects``: tests of matched components between conditions
- ``_state_effects``: tests of the mean and covariance of matched components, with covariates
- ``_abundance``: tests of shares between conditions, with covariates
- ``_neighborhood_abundance``: the same for neighborhoods of cells
- ``_mixture_barycenter``: the mean mixture of a group of patients
- ``_patient_trajectory``: the order of patients along a trajectory, and what changes along it

Symbols: P patients, K components of a patient, M groups of matched components, C conditions, g features, r axes.
"""
