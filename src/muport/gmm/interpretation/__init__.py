"""What a metric and the components mean: component groups, cell types, features and gene sets.

In the order of reading:

- ``_component_groups``: one set of components for the cohort, from the components of all patients
- ``_features_and_types``: features behind the axes, cell types of the components, and tests by condition
- ``_enrichment``: gene sets among ranked features
"""
