"""Particle swarms over widths."""
