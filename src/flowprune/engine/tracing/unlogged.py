"""Torch's log of operators that raise on fake tensors, off while a model is traced."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def failures_unlogged() -> Iterator[None]:
    """Inside, an operator that raises on fake tensors is not reported by torch, with its traceback, as an error.

    A pass that breaks off is an answer here: the model needs real tensors, or the cut is none that it allows. A filter on the one
    logger is there for as long, and only for this thread; levels and handlers stay as the user has them.
    """
    logger, thread = logging.getLogger("torch._subclasses.fake_tensor"), threading.get_ident()

    def let_through(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.exc_info is None

    logger.addFilter(let_through)
    try:
        yield
    finally:
        logger.removeFilter(let_through)
