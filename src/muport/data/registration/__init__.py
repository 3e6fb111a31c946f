"""Registration: what the user asked for, and the scvi-tools fields and manager that check and store it.

In the order of reading:

- ``_setup``: what the arguments of ``setup_mudata`` ask for, and where it lies in the object
- ``_fields``: scvi-tools fields for cells that are not in every modality
- ``_pairing``: whether a name in two modalities is one cell
- ``_outliers``: a warning of cells far from all others
- ``_manager``: the registration itself, and the data loader over all cells
"""
