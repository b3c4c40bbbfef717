"""The toy experiment of energy-aware pruning: points in the plane, a wide network, a third of its hidden units removed."""

from __future__ import annotations

from flowprune.studies.toy.experiment import SAMPLES, ToyResult, toy_experiment

__all__ = ["SAMPLES", "ToyResult", "toy_experiment"]
