"""What all plots share: values by key, colors, panels, legends, and finished figures.

In the order of reading:

- ``_axes``: new axes, dots and legends in one style
- ``_names_beside_dots``: names of dots and of groups, placed so that they do not cover each other
- ``_finished_figure``: figures that are shown, saved or returned
- ``_colors``: colors of categories
- ``_values``: coordinates, columns and genes of an AnnData or MuData, found by key
- ``_embedded_velocities``: velocities in an embedding, projected where they are not there yet
- ``_places_with_cells``: where an embedding has cells, so that lines end with them
- ``_embedded_paths``: paths in a representation, drawn along the cells
- ``_smooth_lines``: smooth curves through recorded points
- ``_palettes``: colors from ``palette`` and from ``uns``
- ``_panels``: cells in one panel for each color, and what is drawn over them
"""
