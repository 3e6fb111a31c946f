"""What is computed from the nearest neighbors of cells.

Files in the order of reading:

- ``_umap``: a UMAP that new cells enter
- ``_pseudotime``: diffusion pseudotime from a root
- ``_root_cell``: the choice of the root
"""
