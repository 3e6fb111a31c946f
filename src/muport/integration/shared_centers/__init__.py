"""The default method: prototypes of every group are transported onto centers that all groups share.

In the order of reading:

- ``_batch_effect_test``: is there a batch effect? A permutation test on the groups among the neighbors of a cell
- ``_merge_batches``: batches without an effect between them are merged
- ``_coupling``: transport of the prototypes of every group onto the shared centers
- ``_label_penalty``: known labels as a penalty in the transport cost
- ``_displacement``: from a coupling to a translation of every prototype and a Bures map of every group
- ``_mnn_refinement``: the remaining shift between mutual nearest prototypes of different groups
- ``_diagnostics``: mixing of batches and structure kept, Eqs. 17-22
- ``_fit``: all steps together: cells and groups in, fitted state out
- ``_new_groups``: maps of groups that were not fitted, onto the frozen centers
"""
