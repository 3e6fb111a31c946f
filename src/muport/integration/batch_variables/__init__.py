"""Several batch variables and continuous covariates.

In the order of reading:

- ``_variable_effects``: displacements of groups as sums of the effects of the levels of their variables
- ``_confounding``: which variables cannot be separated, and how much of each the others explain
- ``_explained_variance``: the fraction of the variance within clusters that a variable explains
- ``_covariates``: the effects of continuous covariates, as slopes that vary over the space
"""
