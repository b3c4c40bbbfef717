"""Carry out a plan on a module: slice, mend, fold constants, certify, and bring the optimizer along."""

from flowprune.engine.surgery.certificate import Refusal, certify
from flowprune.engine.surgery.cut import check_fits, cut, cut_on_meta
from flowprune.engine.surgery.cut_optimizer import cut_optimizer

__all__ = ["Refusal", "certify", "check_fits", "cut", "cut_on_meta", "cut_optimizer"]
