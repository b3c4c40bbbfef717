"""Python's cyclic garbage collector, paused while a plan is made.

A plan makes hundreds of thousands of small objects and almost no cycles. The collector walks through everything alive, the
libraries' modules included, each time it believes that there is something to find: a quarter of a plan's time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic collection inside; afterwards the collector is as it was before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
