"""From cells and times to a velocity field: windows, couplings, a network.

In the order of reading:

- ``_windows``: which cells are transported onto which
- ``_raw_velocity``: the velocity of each cell, from the couplings of its windows
- ``_wiener_filter``: coordinates denoised by one linear map
- ``_averaging``: raw velocities averaged over neighboring cells
- ``_field``: the network v(x, t), with bootstrap members and its Jacobian
- ``_field_training``: the fit of the network to raw velocities
- ``_pipeline``: all steps together
"""
