"""Every preset, killed in the middle of a training and taken up again, ends as one that nobody disturbed: to the bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowprune.methods import names_before_import


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that runs presets in forked children."""
    script = Path(__file__).with_name("forked_runs.py")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", script, tmp_path_factory.mktemp("runs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("name", names_before_import("presets"))
def test_a_preset_killed_and_resumed_ends_bit_for_bit_as_one_undisturbed(
    name: str, runs: subprocess.Popen[str]
) -> None:
    assert runs.stdin is not None and runs.stdout is not None
    runs.stdin.write(f"{name}\n")
    runs.stdin.flush()
    found = json.loads(runs.stdout.readline())
    steps = found.pop("steps", 0)
    killed = [-signal.SIGKILL] * (2 if name == "acp" else 1)
    assert found == {"whole": 0, "killed": killed, "resumed": 0, "different": []}
    assert steps >= 60
