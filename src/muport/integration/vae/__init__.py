"""The dual-view VAE that refines integrated cells.

In the order of reading:

- ``_vae_options``: the options of the user, checked
- ``_views``: the two views of a cell
- ``_networks``: encoders and decoder
- ``_losses``: each term of the objective, VAE Eqs. 1-11
- ``_vae_module``: the scvi-tools module
- ``_vae_training``: the training plan and the data loaders
- ``_network_fit``: arrays in, a network of plain arrays out
"""
