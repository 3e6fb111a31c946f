"""The demonstration behind ``muport demo``: data, preparation, integration, scores, table and pictures."""

from muport._demo._run import run

__all__ = ["run"]
