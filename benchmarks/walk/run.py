"""The way of one call through the package: which files ``fp.prune(model, inputs, macs=0.5)`` enters, and how often it comes back.

    python benchmarks/walk/run.py [--source DIR] [--json]

A reader who follows the call opens a file where a function in one file of the package calls a function in another (what torch does
in between is looked through). Counted are the distinct calls from file to file, in the order in which each first happens: how
many files are entered, and how many of these calls lead into a file that was entered and left before. ``--source`` names the
``src`` folder of another checkout, so that one script counts two versions of the package.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import CodeType, FrameType


class Walk:
    """The calls between files of one package, as ``sys.setprofile`` reports them."""

    def __init__(self, package: Path) -> None:
        self._prefix = f"{package}/"
        self._seen: set[tuple[CodeType, CodeType]] = set()
        self.distinct: list[tuple[str, str]] = []
        """File that calls and file that is called, each pair of functions once, in the order of their first calls."""

    def happened(self, frame: FrameType, event: str, argument: object) -> None:
        """What ``sys.setprofile`` says: a function of some file starts, or anything else."""
        code = frame.f_code
        if event != "call" or not self._inside(code):
            return
        caller = frame.f_back
        while caller is not None and not self._inside(caller.f_code):
            caller = caller.f_back
        if caller is None or caller.f_code.co_filename == code.co_filename:
            return
        if (caller.f_code, code) not in self._seen:
            self._seen.add((caller.f_code, code))
            self.distinct.append((self._named(caller.f_code), self._named(code)))

    @property
    def entered(self) -> list[str]:
        """The files, in the order in which the walk first comes to them."""
        return list(dict.fromkeys(file for pair in self.distinct for file in pair))

    @property
    def returns(self) -> int:
        """How many of the distinct calls lead into a file that was entered before, and left for another since."""
        known: set[str] = set()
        here, found = "", 0
        for _, file in self.distinct:
            found += file != here and file in known
            known.add(file)
            here = file
        return found

    def rooms(self) -> list[tuple[str, list[str]]]:
        """The files entered, under their folders, in the order in which the walk first comes to each."""
        found: dict[str, list[str]] = {}
        for file in self.entered:
            folder, _, name = file.rpartition("/")
            found.setdefault(folder, []).append(name.removesuffix(".py"))
        return list(found.items())

    def _inside(self, code: CodeType) -> bool:
        return code.co_filename.startswith(self._prefix)

    def _named(self, code: CodeType) -> str:
        return code.co_filename.removeprefix(self._prefix)


def walk() -> Walk:
    """Prune a ResNet-20 with random weights to half of its MACs, by the norms of its filters."""
    import torch

    import flowprune as fp

    torch.manual_seed(0)
    model, inputs = fp.models.create("resnet20"), torch.zeros(1, 3, 32, 32)
    importance = fp.importance.L2()
    fp.prune(
        model, inputs, macs=0.5, importance=importance
    )  # what is imported or remembered once is no part of the way
    found = Walk(Path(fp.__file__).parent)
    sys.setprofile(found.happened)
    try:
        fp.prune(model, inputs, macs=0.5, importance=importance)
    finally:
        sys.setprofile(None)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, help="the src folder of another checkout")
    parser.add_argument("--json", action="store_true", help="the numbers, and every call, as JSON")
    arguments = parser.parse_args()
    if arguments.source is not None:
        sys.path.insert(0, str(arguments.source.resolve()))
    found = walk()
    numbers = {"files": len(found.entered), "calls": len(found.distinct), "returns": found.returns}
    if arguments.json:
        print(json.dumps({**numbers, "walk": found.distinct}, indent=1))
        return 0
    print(
        f"{numbers['files']} files entered, {numbers['calls']} distinct calls from file to file, "
        f"{numbers['returns']} of them into a file already left"
    )
    for folder, files in found.rooms():
        print(f"{folder or '.'}/: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
