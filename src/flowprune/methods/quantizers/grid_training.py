"""Training on with weights on grids: the optimizer moves the numbers behind them, the network runs on the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import ArtifactError, FlowpruneError
from flowprune.methods.quantizers._channelwise.min_max import on_grid


class GridTraining(Regularizer):
    """Keeps filters on grids of their own bits while any loop trains them, straight through the rounding.

    Between steps the model's weights are ``Q(W)``, so that outputs, evaluation and what is saved are those of the grid. For the
    optimizer's step the numbers W behind them are put back; the gradient at ``Q(W)`` counts as theirs.

    Args:
        model: whose parameters are named in ``bits``.
        weights: parameter name -> W to begin with; what the model has if None.
        bits: parameter name -> the number of bits of every filter ``[filters]``.

    Raises:
        FlowpruneError: a parameter is missing or has another shape.

    Example:
        >>> training = GridTraining(model, None, {"conv.weight": torch.tensor([2, 8, 4])})
        >>> loss.backward(); training.after_backward(); optimizer.step(); training.after_step(optimizer, None)
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor] | None, bits: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        for name, own in bits.items():
            if name not in parameters or len(parameters[name]) != len(own):
                raise FlowpruneError(f"{len(own)} numbers of bits for {name} do not fit the model; give one a filter")
        self._parameters = {name: parameters[name] for name in bits}
        self._bits = dict(bits)
        given = self._parameters if weights is None else weights
        self._behind = {name: given[name].detach().clone() for name in bits}
        self._write()

    @torch.no_grad()
    def after_backward(self) -> None:
        """Put the numbers behind the grid back for the step; filters of 0 bits get no gradient."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._behind[name])
            if parameter.grad is not None:
                parameter.grad[self._bits[name].to(parameter.device) == 0] = 0

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Remember where the step led, and go back to the grid."""
        for name, parameter in self._parameters.items():
            self._behind[name].copy_(parameter)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The numbers behind the grid; the bits never change."""
        return {"behind": {name: one.clone() for name, one in self._behind.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            ArtifactError: if it is something else, or of other weights.
        """
        behind = state.get("behind") if isinstance(state, Mapping) else None
        shapes = {name: one.shape for name, one in self._behind.items()}
        if not isinstance(behind, Mapping) or {name: one.shape for name, one in behind.items()} != shapes:
            raise ArtifactError("the state is of weights on grids of another network")
        with torch.no_grad():
            for name, one in behind.items():
                self._behind[name].copy_(one)
        self._write()

    @torch.no_grad()
    def _write(self) -> None:
        for name, parameter in self._parameters.items():
            self._behind[name] = self._behind[name].to(parameter.device)
            parameter.copy_(on_grid(self._behind[name], self._bits[name].to(parameter.device)))
