"""Optimal transport for single-cell data on MuData.

Names are loaded when they are first used: ``import muport`` alone imports neither torch nor scvi-tools.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muport import datasets, gmm, hub, metrics, neighbors, ot, pl, pp, velocity
    from muport.gmm import GMM
    from muport.integration import Integration
    from muport.integration.atlas._integrate_centroids import integrate_centroids
    from muport.velocity import Velocity

__all__ = [
    "GMM",
    "Integration",
    "Velocity",
    "datasets",
    "gmm",
    "hub",
    "integrate_centroids",
    "metrics",
    "neighbors",
    "ot",
    "pl",
    "pp",
    "velocity",
]

# Public class or function -> the package that defines it; every other name of __all__ is a sub-package.
_CLASSES: dict[str, str] = {
    "GMM": "muport.gmm",
    "Integration": "muport.integration",
    "Velocity": "muport.velocity",
    "integrate_centroids": "muport.integration.atlas._integrate_centroids",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("muport")
    if name in _CLASSES:
        return getattr(import_module(_CLASSES[name]), name)
    if name in __all__:
        return import_module(f"muport.{name}")
    raise AttributeError(f"module 'muport' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
