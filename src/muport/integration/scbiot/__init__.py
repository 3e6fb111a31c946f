"""The iterations of the scBIOT paper, Eqs. 1-22, with its mathematics corrected.

In the order of reading:

- ``_scbiot_fit``: cells and groups in, fitted state out
- ``_iterations``: the iterations, and the selection of the best by J
- ``_schedule``: hyperparameters of the paper, annealed over the iterations
- ``_proposed_moves``: bridge score, transport and sharpening, Eqs. 1-12
- ``_move_limits``: step cap, edge guard and PostScale, Eqs. 14-16
"""
