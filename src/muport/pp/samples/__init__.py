"""Samples in place of cells.

- ``_pseudobulk``: sums of the counts of each sample and type
"""
