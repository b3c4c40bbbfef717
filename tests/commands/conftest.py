"""The installed command, as a person runs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from installed_command import command_line

from flowprune.cli import main

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def flowprune(tmp_path: Path) -> Callable[..., Finished]:
    """Run the command in an empty folder; keyword arguments are environment variables."""
    home = tmp_path / "work"
    home.mkdir()

    def run(*arguments: object, **environment: str) -> Finished:
        variables = {key: value for key, value in os.environ.items() if key != "FLOWPRUNE_DATA"}
        variables |= {"OMP_NUM_THREADS": "1", **environment}
        # Relative entries would mean other folders there.
        paths = [str(Path(entry).resolve()) for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if entry]
        variables["PYTHONPATH"] = os.pathsep.join(paths)
        return subprocess.run(
            [*command_line(), *map(str, arguments)],
            cwd=home,
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


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
