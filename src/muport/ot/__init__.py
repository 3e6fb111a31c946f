"""Optimal transport between arrays: tensors in, one :class:`OTResult` out."""

from muport.ot._cost import cost_matrix
from muport.ot._result import OTResult
from muport.ot._sinkhorn import Potentials, sinkhorn
from muport.ot._solve import solve

__all__ = ["OTResult", "Potentials", "cost_matrix", "sinkhorn", "solve"]
