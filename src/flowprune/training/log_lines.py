"""What a log hears of something that takes long: a line every ten seconds, of how far it is, or at least that it goes on."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""

_last = [time.monotonic()]
"""When the last line was said, by whomever."""


class LinesNowAndThen:
    """Says how far something is: every line on a terminal; in a log the latest one, at most every ten seconds."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        """Say the line if it is time."""
        if self.is_terminal or time.monotonic() - self._said >= EVERY:
            self._said = _print(line)


@contextmanager
def heard_from(command: str = "flowprune") -> Iterator[None]:
    """Within it, a log hears every ten seconds that the command is at work, unless it says more by itself."""
    if sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":  # one of several processes speaks
        yield
        return
    began, ended = _now(), threading.Event()

    def speak() -> None:
        while not ended.wait(max(0.01, _last[0] + EVERY - time.monotonic())):
            if time.monotonic() - _last[0] >= EVERY:
                _print(f"{command}: at work for {time.monotonic() - began:.0f} s")

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join()


def _now() -> float:
    _last[0] = time.monotonic()
    return _last[0]


def _print(line: str) -> float:
    print(line, file=sys.stderr, flush=True)
    return _now()
