"""Reading: the obs and obsm of an object as arrays, aligned by cell name; files are read by the same rules.

In the order of reading:

- ``_categories``: the rule for the values of a column: which are missing or unlabeled, and what a category is called
- ``_columns``: where a column stands, and one categorical column over all cells, gathered by name
- ``_numbers``: one numeric column over all cells, gathered by name
- ``_crossed_columns``: several categorical columns as one, of combinations
- ``_annotations``: the table of the columns that a set-up names (batch, label, sample, region, time, weight)
- ``_representation``: a representation of any type as float32 rows
- ``_layers``: the values of a layer
- ``_count_matrix``: counts, checked and read in blocks of cells
- ``_rows``: the cells as arrays, as the methods read them
"""
