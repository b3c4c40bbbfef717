"""The command, to be run in a process of its own, killed and interrupted: as installed, or forked off one with torch imported.

A fresh process spends seconds on importing torch before it does anything. Most tests are about what a command does, not about
how its process starts: theirs is forked off the server of imports. It has its own folder, variables, streams and exit code, and
calls what the console script calls.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

from import_server import start_method


class Command(Protocol):
    """What tests ask of a process, as of a ``subprocess.Popen``."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int) -> None: ...

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]: ...


def command_line() -> list[str]:
    """The console script beside this Python; the module where the package is not installed."""
    script = Path(sys.executable).with_name("flowprune")
    return [str(script)] if script.exists() else [sys.executable, "-m", "flowprune"]


def variables(**more: str) -> dict[str, str]:
    """The environment of a command: one thread, and no data folder that was not asked for."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    if "FLOWPRUNE_DATA" not in more:
        found.pop("FLOWPRUNE_DATA", None)
    # Relative entries would mean other folders where the command runs.
    paths = [str(Path(entry).resolve()) for entry in found.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {**found, "PYTHONPATH": os.pathsep.join(paths)}


def fresh(*words: object, folder: Path | None = None, **more: str) -> subprocess.Popen[str]:
    """``flowprune WORDS ...`` as installed: a process that has to import everything."""
    return subprocess.Popen(
        [*command_line(), *map(str, words)],
        cwd=folder,
        env=variables(**more),
        # A shell without job control starts background work with the interrupt ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forked(*words: object, folder: Path | None = None, **more: str) -> Forked:
    """``flowprune WORDS ...`` in a process that has everything imported, and so has read all other variables than these already."""
    assert set(more) <= {"FLOWPRUNE_DATA", "PYTHONPATH"}, more
    return Forked([str(word) for word in words], folder or Path.cwd(), variables(**more))


class Forked:
    """A forked command, to be asked like a ``subprocess.Popen`` whose streams are pipes."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._streams = tempfile.TemporaryDirectory()
        self._files = [Path(self._streams.name) / name for name in ("stdout", "stderr")]
        self._process = multiprocessing.get_context(start_method()).Process(
            target=_command, args=(words, folder, environment, self._files)
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, sig: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, sig)

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the command goes on"
        printed, complained = (file.read_text() for file in self._files)
        return printed, complained


def _command(words: list[str], folder: Path, environment: dict[str, str], files: list[Path]) -> None:
    """In the forked process: become the command."""
    for descriptor, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path += [entry for entry in environment["PYTHONPATH"].split(os.pathsep) if entry not in sys.path]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["flowprune", *words]
    from flowprune.cli import main

    sys.exit(main())


def wait_until(there: Path, process: Command) -> None:
    """Until the process has written a file."""
    deadline = time.monotonic() + 600
    while not there.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {there}"
        time.sleep(0.005)
