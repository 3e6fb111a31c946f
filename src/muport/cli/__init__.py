"""The command line: ``muport`` or ``python -m muport``."""

from muport.cli._main import main

__all__ = ["main"]
