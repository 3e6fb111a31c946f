"""Cell fates: a Markov chain between cells, its terminal states, and the probability to reach them.

In the order of reading:

- ``_transition_matrix``: transition probabilities between cells along the velocity
- ``_coupling_kernel``: transition probabilities between cells of measured days, by the plans between the days
- ``_combined_kernel``: transition probabilities in equal parts of these and of moves to neighbors
- ``_absorption``: absorption probabilities of a Markov chain, by a linear system
- ``_persistent_maxima``: local maxima that stand out from the paths between them
- ``_terminal_states``: the sets of cells in which the flow ends
- ``_fate_probabilities``: fate probabilities and committor
- ``_perturbation``: fates of cells that are moved to another position
- ``_condition_fates``: fates of samples, and their difference between two conditions
- ``_macrostates``: macrostates of the chain and the directed graph between them
- ``_drivers``: features that correlate with fates, and velocities of features
"""
