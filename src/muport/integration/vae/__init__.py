"""The dual-view VAE that refines integrated cells.

In the order of reading:

- ``_views``: the two views of a cell
- ``_networks``: encoders and decoder
- ``_losses``: each term of the objective, VAE Eqs. 1-11
- ``_vae_options``: the options of the user, checked
- ``_trained_network``: a trained network as plain arrays, and the latent coordinates of cells
- ``_network_fit``: the fit: arrays in, a trained network out
- ``_vae_module``: the scvi-tools module
- ``_vae_training``: the training plan and the minibatches
"""
