"""The proof of a proposed cut: it is made, without data where the forward runs so, and certified."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.surgery import Refusal, certify, cut, cut_on_meta


def refusal_of(
    made: Plan, model: nn.Module, inputs: Any, coupled: CoupledModel, removed: NDArray[np.bool_]
) -> Refusal | None:
    """Why the cut that a plan proposes cannot be certified; None where it is.

    Args:
        made: the plan.
        model, inputs: the dense model and example inputs.
        coupled: the analysis of the model that the plan's tensors are of: of ``model``, or of ``model`` with its branches changed.
        removed: [labels]: which components of ``coupled`` leave.
    """
    candidate = cut_on_meta(model, made) if coupled.runs_on_meta else cut(model, made)
    proof = (candidate, inputs, made, coupled.coupling, coupled.passes, removed)
    refusal = certify(*proof)
    if refusal is not None and not coupled.last_refusal:
        refusal = certify(*proof)  # what the code computes once and remembers is remembered now
    return refusal
