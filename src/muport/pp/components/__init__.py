"""Components of sparse values by singular value decompositions.

In the order of reading:

- ``_principal_components``: principal components, as scanpy stores them
- ``_row_blocks``: a large sparse matrix in blocks of rows, and its products
- ``_standardized_pca``: principal and canonical axes of sparse standardized values
"""
