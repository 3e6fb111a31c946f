"""Preparation: from counts to a representation and a pseudotime, through scanpy."""

from muport.pp._prepare import prepare
from muport.pp._pseudotime import pseudotime

__all__ = ["prepare", "pseudotime"]
