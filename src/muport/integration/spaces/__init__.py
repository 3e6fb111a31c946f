"""The space in which modalities are compared: learned from paired cells, or given and denoised.

In the order of reading:

- ``_scaling``: center and scale of each modality
- ``_ridge_regression``: ridge regression from one representation to another
- ``_cross_modality``: prediction of one modality from another, through paired cells and through a shared space
- ``_modality_weights``: the weight of each modality in each cell
- ``_axis_weights``: the weight of each axis of a modality in predictions
- ``_distance_maps``: the map of each modality to coordinates in which distances count structure
- ``_held_out_pairs``: how well held-out paired cells find their partner
- ``_canonical_axes``: axes on which the representations of unpaired modalities agree
- ``_shared_space``: a shared space of unpaired cells, denoised and completed by the representation of each modality
- ``_joint_space``: one space for paired and partly paired cells
"""
