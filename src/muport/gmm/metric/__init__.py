"""The ground metric, learned so that transport between patients separates their conditions.

In the order of reading:

- ``_reference_states``: states that all patients share, and the composition of each patient
- ``_log_ratios``: compositions of types or states as centered log-ratios
- ``_state_moments``: means and variances of these states, as coordinates of patients
- ``_component_plans``: plans between the components of patients, and distances as a function of the metric W
- ``_pair_scatters``: the displacements of every pair of patients, as one matrix per pair
- ``_discriminant_axes``: the closed form of the metric that separates conditions
- ``_gradient_training``: training of the metric by gradient steps on the triplets of ggml-ot
- ``_nuisance``: covariates, and distances without their effects
- ``_kernel_ridge``: kernel ridge regression and calibrated classification from distances
- ``_metric_settings``: the options of the metric, checked
- ``_ground_metric``: a fitted metric, and the distances under it
- ``_metric_candidates``: metrics for all combinations of options, and their held-out losses

Symbols: P patients, K components of a patient, d dimensions of the representation, r axes; m, S and R are the mean, the
covariance and the symmetric root of the covariance of a component; W (r, d) is the metric; P_kl is the plan between the
components k and l of two patients; A_ij (d, d) is the scatter of the displacements between the patients i and j.
"""
