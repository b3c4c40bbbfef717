"""The installed command, to be run in a process of its own, killed and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def command_line() -> list[str]:
    """The console script beside this Python; the module where the package is not installed."""
    script = Path(sys.executable).with_name("flowprune")
    return [str(script)] if script.exists() else [sys.executable, "-m", "flowprune"]


def start(command: str, recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """``flowprune COMMAND RECIPE --out OUT ...``, one thread."""
    return subprocess.Popen(
        [*command_line(), command, str(recipe), "--out", str(out), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell without job control starts background work with the interrupt ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(there: Path, process: subprocess.Popen[str]) -> None:
    """Until the process has written a file."""
    deadline = time.monotonic() + 240
    while not there.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {there}"
        time.sleep(0.005)
