"""Velocity fields from optimal transport between cells of successive times."""
