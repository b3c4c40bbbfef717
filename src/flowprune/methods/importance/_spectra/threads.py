"""Independent pieces of linear algebra on all cores: one piece a thread, one thread a piece.

LAPACK's threads inside a single symmetric eigenvalue problem wait for each other thousands of times; cores that do
different matrices never wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``[work(item) for item in items]`` on as many threads as torch uses; the first exception is raised.

    Gradients are off inside, as the threads do not know the caller's mode.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        with torch.no_grad():
            return [work(item) for item in items]
    before = torch.get_num_threads()

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)  # of this thread; the number new threads start with is put back below
        with torch.no_grad():
            return work(item)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, items))
    finally:
        torch.set_num_threads(before)
