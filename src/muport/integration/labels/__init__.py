"""Labels: transfer to unlabeled cells, calibrated, and the separation of labeled types.

In the order of reading:

- ``_label_transfer``: votes of labeled neighbors, combined with a classifier for each modality
- ``_type_separation``: a classifier of the types, and the shift that separates them
"""
