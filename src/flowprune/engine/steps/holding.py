"""Masked weights that stay exactly zero while a model is trained, in any loop."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from flowprune.engine.steps.carried_masks import held_where
from flowprune.engine.steps.lineage import lineage_of
from flowprune.engine.tracing import model_of
from flowprune.errors import FlowpruneError


class HeldMasks:
    """Parameters of one model, and where they are zero for good.

    Args:
        model: whose parameters they are.
        masks: name of a parameter -> bool of its shape; those of the model's lineage if None.

    Raises:
        ModelError: a mask is of no parameter, or of another shape.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> None:
        held = held_where(model, lineage_of(model).masks if masks is None else masks)
        parameters = dict(model.named_parameters())
        self._held = [(parameters[name], mask) for name, mask in held.items() if not mask.all()]
        self._gone: dict[int, Tensor] = {}
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def __bool__(self) -> bool:
        """Whether anything is held at zero."""
        return bool(self._held)

    def apply(self) -> None:
        """Set what is masked to zero."""
        with torch.no_grad():
            for parameter, mask in self._held:
                gone = self._gone.get(id(parameter))
                if gone is None or gone.device != parameter.device:
                    gone = self._gone[id(parameter)] = ~mask.to(parameter.device)
                parameter.masked_fill_(gone, 0.0)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the masks after every step of ``optimizer``, until ``close``.

        Raises:
            FlowpruneError: it steps none of the masked weights.
        """
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not any(id(parameter) in stepped for parameter, _ in self._held):
            raise FlowpruneError(
                "the optimizer steps none of the masked weights; make it of this very model's parameters"
            )

        def after(_optimizer: torch.optim.Optimizer, _arguments: Any, _keywords: Any) -> None:
            self.apply()

        self._handle = optimizer.register_step_post_hook(after)

    def close(self) -> None:
        """Let go: the next steps may move every weight."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self.close()


def hold(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor] | None = None) -> HeldMasks:
    """Keep the masked weights of a model exactly zero in a training loop of your own.

    They are set to zero now and after every step of the optimizer, by a hook of it; what it remembers of them (momentum) does not
    matter. ``fp.train``, and so ``flowprune finetune`` and ``flowprune run``, do this by themselves.

    Args:
        model: what ``fp.mask`` returned, or that pruned, loaded or trained since.
        optimizer: of this very model's parameters.
        masks: name of a parameter -> bool of its shape, False where it is to be zero; what the model's masks left if None.

    Returns:
        A handle: ``close()`` ends it; also a context manager that ends with its block.

    Raises:
        FlowpruneError: the model has no mask, or the optimizer is that of another model.
        ModelError: a mask is of no parameter, or of another shape.

    Example:
        >>> import torch, flowprune as fp
        >>> sparse = fp.mask(torch.nn.Linear(4, 2), torch.zeros(1, 4), mask="n_m", weights=0.5)
        >>> optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1, momentum=0.9)
        >>> with fp.hold(sparse, optimizer):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         sparse(torch.ones(1, 4)).sum().backward()
        ...         optimizer.step()
        >>> int((sparse.weight == 0).sum())
        4
    """
    held = HeldMasks(model_of(model), masks)
    if not held:
        raise FlowpruneError(
            f"this {type(model).__name__} has no masked weights to hold; fp.mask makes a model that has"
        )
    held.follow(optimizer)
    held.apply()
    return held
