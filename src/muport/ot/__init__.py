"""Optimal transport between arrays: costs and masses in, one :class:`OTResult` out.

In reading order:

- ``_solve``: the facade, from arguments to a solver and its result.
- ``_inputs``: checks of arrays, and one padded batch from an array, a batch or a list.
- ``_cost``: cost matrices between points.
- ``_sinkhorn``: the entropic solver, balanced and unbalanced.
- ``_pot``: the import of POT.
- ``_exact``: the network simplex of POT.
- ``_gromov``: Gromov and fused Gromov-Wasserstein solvers.
- ``_result``: the result of every solver.
"""

from muport.ot._cost import cost_matrix
from muport.ot._result import OTResult
from muport.ot._sinkhorn import Potentials, sinkhorn
from muport.ot._solve import solve

__all__ = ["OTResult", "Potentials", "cost_matrix", "sinkhorn", "solve"]
