"""The import of POT, which loads JAX if it is installed; JAX changes NumPy's random state and the environment."""

from __future__ import annotations

from typing import Any

from muport._global_state import preserve_environment

__all__ = ["load_pot"]


def load_pot() -> Any:
    """Import the package ``ot`` of POT without a change of the user's global state."""
    with preserve_environment():
        import ot
    return ot
