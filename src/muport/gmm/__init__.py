"""Patients as Gaussian mixtures, their distances under a learnt metric, and predictions from these."""

__all__: list[str] = []
