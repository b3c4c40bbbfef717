"""The command line that studies of cells share: what is open, in order, and how long it is expected to take; carry it out."""

from __future__ import annotations

import argparse
import fcntl
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch
from evidence.cells import Cell, Known, Setting, Workshop

from flowprune.errors import FlowpruneError
from flowprune.studies.recipe_file import override

ROOT = Path(__file__).resolve().parents[2]

Cells = Callable[[Known], Sequence[Cell]]
"""All cells of a study that the results so far determine, in the order in which they are to be carried out."""
Later = Callable[[Known], Sequence[str]]
"""What is still to come that no cell stands for yet, a line each, with what it waits for."""


def study(
    description: str | None, setting: Setting, cells: Cells, later: Later, arguments: Sequence[str] | None = None
) -> int:
    """Run what is open of a study, or list it.

    Args:
        description: of the command.
        setting: of the study.
        cells, later: of what it is made; asked anew after every cell, as results decide what comes.
        arguments: of the command; those of the process if None.

    Returns:
        The exit status: 1 where a cell failed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what is open, in order, and run nothing")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="cells by name; may be repeated")
    parser.add_argument("--most", type=int, default=None, metavar="N", help="end after so many cells")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--images-a-second", type=float, default=400.0, help="what --list goes by as long as nothing was trained"
    )
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / setting.results)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / setting.results.name, help="not committed")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the setting, to try it small"
    )
    given = parser.parse_args(arguments)
    if given.set:
        content = asdict(setting)
        override(content, given.set)
        setting = Setting(**content)
    torch.set_num_threads(given.threads)
    workshop = Workshop(setting, given.out, given.work, given.data_dir)

    def still_open(known: Known) -> list[Cell]:
        wanted = [cell for cell in cells(known) if not given.only or any(fnmatch(cell.name, one) for one in given.only)]
        return list(opened(wanted, known, workshop))

    if given.list:
        known = workshop.known()
        for line in listed(still_open(known), known, workshop, given.images_a_second):
            print(line)
        for line in later(known):
            print(f"later: {line}")
        return 0
    say = partial(print, flush=True)
    failed: set[str] = set()
    with alone(given.work):
        while given.most is None or given.most > 0:
            known = workshop.known()
            cell = next((cell for cell in still_open(known) if not failed & {one.name for one in cell.chain}), None)
            if cell is None:
                break
            try:
                workshop.done(cell, say)
            except FlowpruneError as error:
                failed.add(cell.name)
                say(f"{cell.name}: {error}")
            given.most = None if given.most is None else given.most - 1
    return int(bool(failed))


def opened(cells: Sequence[Cell], known: Known, workshop: Workshop) -> Iterator[Cell]:
    """The cells without a result, each behind those whose models it needs and which are not there (any more)."""
    seen: set[str] = set()
    for cell in cells:
        if cell.name in known:
            continue
        for one in cell.chain:
            if one.name not in seen and (one is cell or not workshop.has_model(one)):
                seen.add(one.name)
                yield one


def listed(cells: Sequence[Cell], known: Known, workshop: Workshop, images_a_second: float) -> Iterator[str]:
    """A line a cell: its name, how long it is expected to take, and what there is of it."""
    trained = [result["seconds"] / result["passes"] for result in known.values() if result.get("history")]
    other = [result["seconds"] for result in known.values() if not result.get("history")]
    a_pass = statistics.median(trained) if trained else 1 / images_a_second
    a_cut = statistics.median(other) if other else 60.0
    whole = 0.0
    for cell in cells:
        minutes = (cell.passes * a_pass if cell.passes else a_cut) / 60
        whole += minutes
        begun = workshop.epochs(cell)
        told = f"; {begun} epochs of it are done" if begun else ""
        again = "; its result is there, its model is not" if cell.name in known else ""
        yield f"{cell.name}: {minutes:.0f} min{told}{again}"
    by = "measured on the finished cells" if trained else f"at {images_a_second:g} images a second"
    yield f"{len(cells)} open cells, {whole / 60:.1f} h ({by})"


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """One at a time: a second process in the same work folder would share checkpoints with the first."""
    work.mkdir(parents=True, exist_ok=True)
    with (work.parent / f"{work.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                f"another process is at work in {work}; wait for it, or name another folder with --work"
            ) from None
        yield
