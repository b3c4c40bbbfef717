"""Training on with shared values: what happens to one of them is the sum over the weights that have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprune.errors import FlowpruneError
from flowprune.methods.quantizers._shared_values.shared_values import SharedValues

What = Literal["gradients", "changes"]


def summed_by_value(codes: Mapping[str, Tensor], numbers: Mapping[str, Tensor], values: int) -> Tensor:
    """``G_l = sum_{ij: code_ij = l} g_ij`` over all layers.

    Marinò, Petrini, Malchiodi & Frasca, arXiv 2108.12704, section 3, after Han, Mao & Dally, ICLR 2016, equation 3.

    Args:
        codes: parameter name -> int64, -1 for what has no value.
        numbers: parameter name -> one number a weight.
        values: length of the codebook.

    Returns:
        ``[values]``, float64 on the CPU; 0 for a value that no weight has.
    """
    total = torch.zeros(values, dtype=torch.float64)
    for name, code in codes.items():
        held = code >= 0
        total += torch.bincount(code[held].cpu(), numbers[name].detach()[held].double().cpu(), minlength=values)
    return total


class CumulativeRetraining:
    """Keeps weights on shared values while any loop trains them.

    Call ``after_backward()`` before each step of the optimizer and ``after_step()`` after it. Weights that are zero for good
    stay zero, and the model's weights are values of ``shared.codebook`` after each step.

    Two forms: ``"gradients"`` is the paper's, ``dL/dc_l = sum dL/dw_ij``: every weight gets the sum of the gradients of those
    it shares its value with, and the optimizer makes of it what it makes of a gradient. ``"changes"`` is what the authors' code
    does (fixture): the optimizer acts on the single gradients, and ``c_l <- c_l + rate sum (w_after - w_before)``. With plain
    SGD and ``rate=1`` they are the same. Weight decay and momentum differ: in the second they are summed, too.

    Args:
        model: whose parameters are named in ``shared``; their weights are set to the shared values.
        shared: what a quantizer made of them.
        what: what is summed.
        rate: of ``"changes"``.

    Raises:
        FlowpruneError: a parameter is missing or has another shape, or ``what`` is neither.

    Example:
        >>> shared = WeightClusters().fit({"fc.weight": model.fc.weight}, values=16)
        >>> retraining = CumulativeRetraining(model, shared)
        >>> loss.backward(); retraining.after_backward(); optimizer.step(); retraining.after_step()
    """

    def __init__(self, model: nn.Module, shared: SharedValues, *, what: What = "gradients", rate: float = 1.0) -> None:
        if what not in ("gradients", "changes"):
            raise FlowpruneError(f"what={what!r}: sum 'gradients' or 'changes'")
        parameters = dict(model.named_parameters())
        for name, codes in shared.codes.items():
            if name not in parameters or parameters[name].shape != codes.shape:
                raise FlowpruneError(
                    f"shared values for {name} {list(codes.shape)} do not fit the model; fit them to its weights"
                )
        self.shared = shared
        self._parameters = {name: parameters[name] for name in shared.codes}
        self._what = what
        self._rate = rate
        self._write()

    def after_backward(self) -> None:
        """Gives every weight the gradient of its value; none to what is zero for good."""
        if self._what == "changes":
            return
        gradients: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                gradients[name] = parameter.grad
        total = self._summed(gradients)
        extended = torch.cat([total, total.new_zeros(1)])  # -1 reads the last
        for name, gradient in gradients.items():
            codes = self.shared.codes[name].to(gradient.device)
            gradient.copy_(extended.to(gradient.device, gradient.dtype)[codes])

    def after_step(self) -> None:
        """Moves the codebook by what the optimizer did, and sets the weights to it."""
        before = self.shared.dequantize()
        changes = {
            name: parameter.detach().double().cpu() - before[name].double().cpu()
            for name, parameter in self._parameters.items()
        }
        moved = self._summed(changes)
        if self._what == "gradients":  # all that share a value moved alike, but for rounding: by their mean
            ones = {name: torch.ones_like(change) for name, change in changes.items()}
            moved /= self._summed(ones).clamp(min=1)
        else:
            moved *= self._rate
        self.shared = replace(self.shared, codebook=self.shared.codebook + moved)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The codebook; codes never change."""
        return {"codebook": self.shared.codebook.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            FlowpruneError: it is a codebook of another length.
        """
        codebook = torch.as_tensor(state["codebook"], dtype=torch.float64)
        if codebook.shape != self.shared.codebook.shape:
            raise FlowpruneError(
                f"a codebook of {len(codebook)} values does not fit codes for {len(self.shared.codebook)}"
            )
        self.shared = replace(self.shared, codebook=codebook)
        self._write()

    def _summed(self, numbers: Mapping[str, Tensor]) -> Tensor:
        codes = {name: self.shared.codes[name].to(number.device) for name, number in numbers.items()}
        return summed_by_value(codes, numbers, len(self.shared.codebook))

    def _write(self) -> None:
        with torch.no_grad():
            for name, weight in self.shared.dequantize().items():
                self._parameters[name].copy_(weight)
