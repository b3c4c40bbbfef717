"""Which commit of this repository made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision(checkout: Path, required: bool = True) -> str:
    """The commit of a checkout; of a folder that is none it is empty, unless one is ``required``.

    Raises:
        subprocess.CalledProcessError: it is required, and git knows none.
    """
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(asked, cwd=checkout, capture_output=True, text=True, check=required).stdout.strip()
