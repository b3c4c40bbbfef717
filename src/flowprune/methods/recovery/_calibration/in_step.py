"""A dense and a small network on the same calibration images, layer by layer, the small one changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from flowprune.engine.measuring.batches import input_of, model_device
from flowprune.engine.tracing.shadow import call_model
from flowprune.errors import DataError, ModelError
from flowprune.methods.recovery._calibration.held_forward import HeldForward, Stop, stopping_at

Pairs = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Gives, batch by batch, a layer's input in the small network and its output in the dense one."""


def calibration_inputs(model: nn.Module, batches: Iterable[Any]) -> list[Any]:
    """The inputs in the batches, on the model's device.

    Raises:
        DataError: there is none, or no tensor where the input should be.
    """
    device = model_device(model)
    inputs = [input_of(batch, device) for batch in batches]
    if not inputs:
        raise DataError("a recovery needs calibration images, and no batch came; is the generator used up?")
    return inputs


def walk(
    small: nn.Module,
    dense: nn.Module,
    layers: Mapping[str, tuple[nn.Module, nn.Module]],
    inputs: Sequence[Any],
    at_once: int,
) -> Iterator[tuple[str, Pairs]]:
    """Stop at each layer in the order in which the network runs, before the small network's has run.

    What is changed in that layer, or behind it, before the next step, is what all that follows sees.

    Args:
        small, dense: the networks, in evaluation mode.
        layers: name -> that layer in the small and in the dense network; each runs once a forward, in the same order.
        inputs: of the calibration batches.
        at_once: so many batches stand still in the midst of their forwards, in both networks. The others are run anew from the
            start for each layer, so that memory does not grow with their number.

    Raises:
        ModelError: the forwards do not come by the layers in the same order; what the networks raise.
    """
    held, again = inputs[:at_once], inputs[at_once:]
    with ExitStack() as stack:
        stack.enter_context(stopping_at({name: pair[0] for name, pair in layers.items()}, "before"))
        stack.enter_context(stopping_at({name: pair[1] for name, pair in layers.items()}, "behind"))

        def begun(model: nn.Module, one: Any) -> HeldForward:
            forward = HeldForward(partial(call_model, model, one))
            stack.callback(forward.close)
            return forward

        forwards = [(begun(small, one), begun(dense, one)) for one in held]
        passed = 0
        while True:
            stops = [(mine.advance(), theirs.advance()) for mine, theirs in forwards]
            name = _common(stops)
            if name is None:
                return
            passed += 1

            def pairs(
                stops: list[tuple[Stop | None, Stop | None]] = stops, count: int = passed, name: str = name
            ) -> Iterator[tuple[Tensor, Tensor]]:
                yield from _tensors(stops)
                for one in again:
                    mine, theirs = (HeldForward(partial(call_model, model, one)) for model in (small, dense))
                    try:
                        for _ in range(count):
                            reached = [(mine.advance(), theirs.advance())]
                        if _common(reached) != name:
                            raise ModelError(_DATA_DECIDES)
                        yield from _tensors(reached)
                    finally:
                        mine.close()
                        theirs.close()

            yield name, pairs


_DATA_DECIDES = (
    "the layers run in another order in the small network than in the dense one, or the images decide which run; such a network "
    "cannot be refitted layer by layer"
)


def _common(stops: Sequence[tuple[Stop | None, Stop | None]]) -> str | None:
    names = {None if stop is None else stop[0] for pair in stops for stop in pair}
    if len(names) > 1:
        raise ModelError(_DATA_DECIDES)
    return names.pop()


def _tensors(stops: Sequence[tuple[Stop | None, Stop | None]]) -> Iterator[tuple[Tensor, Tensor]]:
    for mine, theirs in stops:
        assert mine is not None and theirs is not None
        yield mine[1], theirs[1]
