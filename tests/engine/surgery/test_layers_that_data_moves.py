"""Deformable convolutions, grids, regions: nobody runs them on invented numbers, which would end the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data_layers import HOW

SCRIPT = Path(__file__).resolve().parents[2] / "networks" / "data_layers.py"


def test_what_is_dead_leaves_and_the_process_lives() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout[-300:], done.stderr[-300:])
    assert done.stdout.count("DONE ") == 2 * len(HOW)
