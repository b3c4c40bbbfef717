"""Take the features down as they pass: the hooks, and what they keep of each forward.

Only attributes are written while the model runs, so ``torch.compile`` can trace through the hooks of the points; everything else
happens before and after the model's own call, which a compiler leaves to Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flowprune.engine.tracing.operator_log import tensors_in
from flowprune.methods.regularizers.feature_flow.points.points import Point


class _Spent:
    """Notices that a backward pass went through a forward. It holds no tensor, or the tensor it hangs on could never be freed."""

    flowprune_transient = True

    def __init__(self) -> None:
        self.passed = False

    def __call__(self, gradient: Tensor) -> None:
        self.passed = True


@dataclass
class Forward:
    """The features of one forward, point by point; None for a point that did not run."""

    features: list[Tensor | None]
    spent: _Spent

    @property
    def images(self) -> int:
        """The size of the batch."""
        return next((feature.shape[0] for feature in self.features if feature is not None), 0)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return next((feature.device for feature in self.features if feature is not None), torch.device("cpu"))


@dataclass
class Tape:
    """What the hooks share. It knows neither the model nor the flow, so neither is kept alive by a hook."""

    open: bool = False
    measuring: bool = False
    forwards: list[Forward] = field(default_factory=list)


def _inert(*arguments: Any) -> None:
    """What a flow's hook becomes in a copy of the model."""


_inert.flowprune_transient = True  # type: ignore[attr-defined]


class TransientHook:
    """Copied or pickled with a model, a hook becomes one that does nothing."""

    flowprune_transient = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _inert_hook, ()


def _inert_hook() -> Callable[..., None]:
    return _inert


class _Input(TransientHook):
    def __init__(self, tape: Tape, position: int, copied: bool) -> None:
        self.tape, self.position, self.copied = tape, position, copied
        self.seen: tuple[Any, ...] = ()

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self.tape.open:
            self.seen = (*self.seen, _tensor([*arguments, *keywords.values()], self.position, self.copied))


class _Output(_Input):
    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self.tape.open:
            self.seen = (*self.seen, _tensor(output, self.position, self.copied))


def _tensor(structure: Any, position: int, copied: bool) -> Tensor:
    if isinstance(structure, Tensor):
        tensor = structure
    elif isinstance(structure, list) and position < len(structure) and isinstance(structure[position], Tensor):
        tensor = structure[position]
    else:
        tensor = list(tensors_in(structure))[position]
    return tensor.clone() if copied else tensor


class _Around(TransientHook):
    """Before or after the model's own call: what is to be done with what the hook is given."""

    def __init__(self, act: Callable[..., None]) -> None:
        self.act = act

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], given: Any) -> None:
        self.act(arguments, given)


class Recorder:
    """Hooks on a model that keep the features of every forward that runs with gradients.

    Args:
        root: the plain model.
        prepare: called with the arguments of the first forward, before it runs; returns the points.
    """

    def __init__(self, root: nn.Module, prepare: Callable[[tuple[Any, ...], dict[str, Any]], Sequence[Point]]) -> None:
        self.tape = tape = Tape()
        self.handles: list[RemovableHandle] = []
        self._state = state = _State(tape)
        handles = self.handles

        def begin(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if state.hooks is None:
                state.hooks = _place_hooks(root, prepare(arguments, keywords), tape, handles)
            state.begin(root.training)

        handles.append(root.register_forward_pre_hook(_Around(begin), with_kwargs=True))
        handles.append(root.register_forward_hook(_Around(state.end)))
        self._root = root

    def place(self, points: Sequence[Point]) -> None:
        """Put the hooks at the points now, instead of at the first forward."""
        self._state.hooks = _place_hooks(self._root, points, self.tape, self.handles)

    def take(self) -> list[Forward]:
        """The forwards since the last call; they are handed over and forgotten here."""
        taken, self.tape.forwards = self.tape.forwards, []
        return taken

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Keep features of forwards without gradients too, and put the forwards of the training aside meanwhile."""
        aside, self.tape.forwards, self.tape.measuring = self.tape.forwards, [], True
        try:
            yield
        finally:
            self.tape.forwards, self.tape.measuring = aside, False

    def close(self) -> None:
        """Remove every hook."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.tape.open = False
        self.tape.forwards = []


class _State:
    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.hooks: list[tuple[_Input, int]] | None = None

    def begin(self, training: bool) -> None:
        tape = self.tape
        for hook, _ in self.hooks or ():
            hook.seen = ()
        tape.open = torch.is_grad_enabled() or tape.measuring
        if tape.open:
            kept = tape.forwards if training else []
            tape.forwards = [forward for forward in kept if not forward.spent.passed]

    def end(self, arguments: tuple[Any, ...], output: Any) -> None:
        if not self.tape.open:
            return
        self.tape.open = False
        features: list[Tensor | None] = []
        for hook, occurrence in self.hooks or ():
            features.append(hook.seen[occurrence] if occurrence < len(hook.seen) else None)
        for hook, _ in self.hooks or ():
            hook.seen = ()
        spent = _Spent()
        last = next((feature for feature in reversed(features) if feature is not None), None)
        if last is not None and last.requires_grad:
            last.register_hook(spent)
        self.tape.forwards.append(Forward(features, spent))


def _place_hooks(
    root: nn.Module, points: Sequence[Point], tape: Tape, handles: list[RemovableHandle]
) -> list[tuple[_Input, int]]:
    placed: dict[tuple[str, str, int], _Input] = {}
    found: list[tuple[_Input, int]] = []
    for point in points:
        key = (point.module, point.side, point.position)
        hook = placed.get(key)
        if hook is None:
            module = root.get_submodule(point.module)
            if point.side == "input":
                hook = _Input(tape, point.position, point.copied)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hook = _Output(tape, point.position, point.copied)
                handles.append(module.register_forward_hook(hook))
            placed[key] = hook
        found.append((hook, point.occurrence))
    return found
