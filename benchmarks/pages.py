"""Write what the results say into every page anew, so that no figure in one is typed by hand.

    python benchmarks/pages.py [STUDY ...] [--check]

A study is a folder here with a ``page.py``, which says what its results in ``results/`` make of its page in ``docs/``; without a
name all of them are written. ``--check`` changes nothing and fails if a page is out of date.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

STUDIES = sorted(path.parent.name for path in Path(__file__).resolve().parent.glob("*/page.py"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", help=", ".join(STUDIES))
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a page is out of date")
    asked = parser.parse_args().study
    unknown = sorted(set(asked) - set(STUDIES))
    if unknown:
        parser.error(f"no study of the name {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    return max(importlib.import_module(f"{study}.page").main() for study in asked or STUDIES)


if __name__ == "__main__":
    sys.exit(main())
