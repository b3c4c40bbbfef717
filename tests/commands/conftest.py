"""The command, as a person runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from installed_command import Command, forked, fresh

from flowprune.cli import main

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The empty folder in which commands are run."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def flowprune(home: Path) -> Callable[..., Finished]:
    """Run the command in an empty folder, forked off a process that has torch imported; keyword arguments are variables."""

    def run(*words: object, **environment: str) -> Finished:
        return finished(forked(*words, folder=home, **environment), words)

    return run


@pytest.fixture
def installed(home: Path) -> Callable[..., Finished]:
    """The same, as a fresh process, which waits for every import: for how it starts, and what only then shows."""

    def run(*words: object, **environment: str) -> Finished:
        return finished(fresh(*words, folder=home, **environment), words)

    return run


def finished(command: Command, words: tuple[object, ...]) -> Finished:
    """What became of it."""
    printed, complained = command.communicate(timeout=600)
    assert command.returncode is not None
    return subprocess.CompletedProcess(words, command.returncode, printed, complained)


@pytest.fixture
def refused(flowprune: Callable[..., Finished], tmp_path: Path) -> Callable[..., str]:
    """Run the command, see that it refuses in one line, and leaves its folder as it was; returns the line."""

    def run(*arguments: object, **environment: str) -> str:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*")}
        done = flowprune(*arguments, **environment)
        assert done.returncode == 2, done
        assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*")} == before
        return done.stderr

    return run


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in this process, in an empty folder, see that it succeeds, and return what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWPRUNE_DATA", raising=False)

    def run(*arguments: object) -> str:
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run
