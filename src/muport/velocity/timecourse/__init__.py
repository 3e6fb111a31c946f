"""Cells measured at a few times: plans between the days, populations that follow them, and predictions.

In the order of reading:

- ``_days``: the cells of each measured time
- ``_clones``: affinity of cells by the clones of their neighborhood
- ``_couplings``: transport plans between the cells of successive days
- ``_populations``: populations of cells followed through the plans
- ``_transition_tables``: transitions between annotations of two days, with bootstrap intervals
- ``_growth``: growth rates at any place and time, from unbalanced transport
- ``_curved_paths``: paths between the cells of two days that pass through the cells in between
- ``_coupled_paths``: pairs of cells drawn from the plan between two days, and the paths between them
- ``_interpolation``: the population at any time, from the plans between the measured days
- ``_followed_cells``: cells of a measured day followed along the paths around them, with their mass
- ``_held_out_days``: measured days predicted without their cells, beside simpler predictions
"""
