"""The toy experiment of energy-aware pruning: numbers and picture of docs/comparison.md.

    python benchmarks/toy/run.py [--seeds 50]         # as in the paper; ten minutes on two cores

Runs ``flowprune toy``; its numbers go to results/toy/toy.json, its picture to docs/toy.png. ``pages.py toy`` makes the table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from flowprune.cli import main as flowprune

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "toy.html"
        status = flowprune(["toy", "--seeds", str(given.seeds), "--out", str(page)])
        if status == 0:
            shutil.copy(page.with_suffix(".json"), ROOT / "results" / "toy" / "toy.json")
            shutil.copy(page.with_suffix(".png"), ROOT / "docs" / "toy.png")
    return status


if __name__ == "__main__":
    sys.exit(main())
