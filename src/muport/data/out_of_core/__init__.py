"""Out of core: cells read in chunks from a file, and results written in chunks to a file.

In the order of reading:

- ``_disk_arrays``: datasets of HDF5 and zarr files, opened when they are first read
- ``_coded_columns``: a column of very many cells as integer codes, found and named by the rules of ``reading``
- ``_number_columns``: columns of numbers, for continuous covariates
- ``_cell_chunks``: representation and columns, a chunk of rows at a time
- ``_fingerprint``: a description of a call by which its result is recognized: every value of the cells, and arguments
- ``_result_sinks``: where a result is written: memory, a memory-mapped file or zarr
- ``_result_obs``: the columns of the cells beside a result on disk
"""
