"""Cells in a canonical order, and the prototypes that summarize each group of cells.

In the order of reading:

- ``_standardized_cells``: cells in an order that depends on nothing but the cells, standardized
- ``_prototypes``: weighted k-means of each group, and the soft weights that carry a value from prototypes to cells
"""
