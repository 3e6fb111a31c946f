"""Projection: the coordinates of new cells, computed from their counts as those of the fitted cells were.

In the order of reading:

- ``_recipe``: how counts become coordinates, as arrays in ``uns`` and in saved models
- ``_counts_to_coordinates``: the coordinates of cells by a recipe
- ``_new_cells``: the representations of new cells: projected where missing, refused if of another space
"""
