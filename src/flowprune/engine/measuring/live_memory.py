"""The memory of one forward, counted: weights, and the largest sum of the tensors that live at one moment."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.tracing import call_model


class _Living(TorchDispatchMode):
    """Adds up the storages that operators return, until they die."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        result = operator(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage.data_ptr()
        if key in self._known or not storage.nbytes():
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._leave, key, storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def feature_bytes(model: nn.Module, inputs: Any) -> int:
    """Bytes of the features that live at the same time in one forward in evaluation mode, at most; weights and inputs not
    counted, nor what an operator needs inside itself.
    """
    living = _Living()
    known = [*model.parameters(), *model.buffers(), *(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))]
    living._known = {tensor.untyped_storage().data_ptr() for tensor in known}
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]), living:
        call_model(model, inputs)
    return living.most
