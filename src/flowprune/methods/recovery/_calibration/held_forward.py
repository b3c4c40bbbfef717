"""A forward that stops at chosen layers and goes on when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Stop = tuple[str, Tensor]
"""(name of a layer, its input or its output)."""

_ON_THIS_THREAD = threading.local()


class _Abandoned(BaseException):
    """Leaves a forward that nobody wants to go on; no ``except Exception`` of a model's may hold it back."""


class HeldForward:
    """One forward without gradients on a thread of its own, which stands still wherever ``stopping_at`` says.

    Only one thread runs at a time: whoever calls ``advance`` waits. So many forwards can walk through a network in step, and what
    one of them holds in between is what any forward holds there.

    Args:
        run: calls the model.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._seen: Stop | None = None
        self._failure: BaseException | None = None
        self._abandoned = self._ended = False
        self._thread = threading.Thread(target=self._body, daemon=True)
        self._thread.start()

    def advance(self) -> Stop | None:
        """Go on to the next stop; None at the end. What the model raises is raised here."""
        if self._ended:
            return None
        self._seen = None
        self._go.release()
        self._stopped.acquire()
        if self._failure is not None:
            raise self._failure
        return self._seen

    def close(self) -> None:
        """Leave the forward where it stands."""
        if not self._ended:
            self._abandoned = True
            self._go.release()
        self._thread.join()

    def hold(self, name: str, tensor: Tensor) -> None:
        """Called by a hook, on this forward's thread: stand still here."""
        self._seen = (name, tensor)
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def _body(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                _ON_THIS_THREAD.forward = self
                with torch.no_grad():
                    self._run()
        except _Abandoned:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            self._seen, self._ended = None, True
            self._stopped.release()


@contextmanager
def stopping_at(layers: Mapping[str, nn.Module], where: Literal["before", "behind"]) -> Iterator[None]:
    """Held forwards stop at these layers inside: before them, with their input, or behind them, with their output.

    Other forwards of the model go through.
    """

    def hold(name: str, tensor: Any) -> None:
        forward = getattr(_ON_THIS_THREAD, "forward", None)
        if isinstance(forward, HeldForward) and isinstance(tensor, Tensor):
            forward.hold(name, tensor)

    def before(name: str) -> Callable[..., None]:
        return lambda _, arguments, keywords: hold(name, arguments[0] if arguments else keywords.get("input"))

    def behind(name: str) -> Callable[..., None]:
        return lambda _, arguments, output: hold(name, output)

    if where == "before":
        handles = [m.register_forward_pre_hook(before(name), with_kwargs=True) for name, m in layers.items()]
    else:
        handles = [m.register_forward_hook(behind(name)) for name, m in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
