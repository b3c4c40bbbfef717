"""Regularizers for the tests of other people's loops, and the loop by hand that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training


class Counting(Regularizer):
    """Counts every call, pulls at a weight, edits a gradient, shrinks after the step, and keeps a tensor."""

    def __init__(self, model: nn.Module, looks_ahead: bool = False) -> None:
        self.weight = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
        self.looks_ahead = looks_ahead
        self.length: tuple[int, int] | None = None
        self.calls: list[str] = []
        self.seen = torch.zeros(2)

    def begin(self, training: Training) -> None:
        self.length = training.epochs, training.steps
        self.calls.append("begin")

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        assert task_loss is not None and not task_loss.requires_grad
        assert batch is not None and batch[1].dtype == torch.int64 and len(batch[0]) == len(batch[1])
        assert outputs is not None
        self.calls.append("penalty")
        return 0.1 * (1 + self.seen[0]) * self.weight.square().sum()

    def after_backward(self) -> None:
        assert self.weight.grad is not None
        self.calls.append("after_backward")
        self.seen[0] += self.weight.grad.abs().mean().float().cpu()
        self.weight.grad[0] = 0

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        self.calls.append("after_step")
        if self.looks_ahead:
            loss_again()
        with torch.no_grad():
            self.weight[1] *= 1 - optimizer.param_groups[0]["lr"] * 0.5

    def epoch_end(self, measured: Any = None) -> dict[str, float]:
        self.calls.append("epoch_end")
        self.seen[1] += 1
        return {"pull": float(self.seen[0])}

    def finish(self) -> Outcome:
        self.calls.append("finish")
        with torch.no_grad():
            self.weight[2] = 0
        return Outcome(scores={"first": self.weight.detach().flatten(1).norm(dim=1)})

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen.clone()}

    def load_state_dict(self, state: Any) -> None:
        self.seen = state["seen"].clone()

    def close(self) -> None:
        self.calls.append("close")


def trained_by_hand(
    methods: Sequence[Regularizer],
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], Iterable[Any]],
    loss_of: Callable[[Any], tuple[Tensor, tuple[Tensor, Tensor], Any]],
    *,
    epochs: int,
    steps: int,
    accumulated: int = 1,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """What the interface's docstring says a training loop does; ``loss_of`` a batch gives loss, images and labels, outputs."""

    scaler = torch.amp.GradScaler("cpu", enabled=False) if scaler is None else scaler

    def refused() -> Tensor:
        raise AssertionError

    for method in methods:
        method.begin(Training(optimizer, epochs, steps))
    for _ in range(epochs):
        for index, batch in enumerate(batches()):
            task_loss, pair, outputs = loss_of(batch)
            penalties = [method.penalty(task_loss.detach(), batch=pair, outputs=outputs) for method in methods]
            scaler.scale((task_loss + sum(penalties)) / accumulated).backward()
            if (index + 1) % accumulated == 0:
                scaler.unscale_(optimizer)
                for method in methods:
                    method.after_backward()
                scaler.step(optimizer)
                scaler.update()
                for method in methods:
                    method.after_step(optimizer, refused)
                optimizer.zero_grad()
        for method in methods:
            method.epoch_end({})
    for method in methods:
        method.finish()
        method.close()
