"""Reading: one row per measurement of a cell in a modality, aligned by cell name.

In the order of reading:

- ``_columns``: one categorical column over all cells, gathered by name
- ``_numbers``: one numeric column over all cells, gathered by name
- ``_annotations``: batch, label, sample, position, time and weight of the cells
- ``_representation``: a representation of any kind as float32 rows
- ``_layers``: the values of a layer, by name
- ``_rows``: all of these together, as the methods read them
"""
