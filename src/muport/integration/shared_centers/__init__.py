"""The default method: prototypes of every group are transported onto centers that all groups share.

In the order of reading:

- ``_fit``: all steps in their order: cells and groups in, fitted state out
- ``_batch_effect_test``: is there a batch effect? A permutation test on the groups among the neighbors of a cell
- ``_transport``: the annealed iterations of the next three files
- ``_coupling``: transport of the prototypes of every group onto the shared centers
- ``_label_penalty``: known labels as a penalty in the transport cost
- ``_displacement``: from a coupling to a translation of every prototype and a shape of every group
- ``_distant_partners``: types that are shifted so far in some groups that the transport found no partner for them
- ``_group_maps``: one map per group, and what of it is kept
- ``_mnn_refinement``: the remaining shift between mutual nearest prototypes of different groups
- ``_sharpening``: cluster centers that cells are pulled toward, and the displacement that separates labeled types
- ``_diagnostics``: mixing of batches and structure kept, Eqs. 17-22
- ``_variable_maps``: maps that remove the effects of each of several batch variables as far as its strength says
- ``_new_groups``: maps of groups that were not fitted, onto the frozen centers
- ``_merge_batches``: batches of a modality without an effect between them are merged before the fit
"""
