"""Cells in a canonical order, and the prototypes that summarize each group of cells.

In the order of reading:

- ``_standardized_cells``: cells in an order that depends on the cells only, standardized
- ``_prototypes``: k-means of each group, and the weights by which a cell gets values from its nearest prototypes
"""
