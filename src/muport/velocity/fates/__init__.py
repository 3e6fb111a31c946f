"""Fates: a Markov chain of cells, its terminal states, and what goes with them.

In the order of reading:

- ``_absorption``: absorption probabilities of a Markov chain
- ``_fates``: the transition matrix of cells, terminal states and fate probabilities
- ``_macrostates``: macrostates of the chain and the directed graph between them
- ``_drivers``: features that correlate with fates, and velocities of features
"""
