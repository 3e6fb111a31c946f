"""Cells measured at a few times: plans between the days, and populations that follow them.

In the order of reading:

- ``_days``: the cells of each measured time
- ``_couplings``: transport plans between the cells of successive days
- ``_populations``: populations of cells followed through the plans
- ``_transition_tables``: transitions between annotations of two days, with bootstrap intervals
"""
