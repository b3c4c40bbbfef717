"""Does the flow pay in a training from scratch? The form that the ladder chose, beside plain training.

    python benchmarks/from_scratch/run.py [--data-dir DIR]     # goes on where it stopped
    python benchmarks/from_scratch/run.py --list               # what is open, in order, and how long it is expected to take

ResNet-20 on 45,000 images of CIFAR-10; the other 5,000 training images choose and never train. Seed 0 trains for 10 epochs:
plainly in three settings, and with the form that is best on the ladder (results/ladder/) at three strengths; each network is cut
to 60 % of the MACs by every criterion, and after the removal of what is dead below two thresholds; the best cut on the images
that choose is recovered. Then seeds 1 to 3 of what was chosen train for 30 epochs, are cut so and recovered alike, and report on
test images 2,000 to 9,999. A training, a cut and a recovery are cells of their own, one JSON each in results/from-scratch/.
``pages.py from_scratch`` writes the tables and the verdict of docs/from-scratch.md, and the verdict's line in the README.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from evidence.cells import Cell, Known, Setting  # noqa: E402
from evidence.command_line import study  # noqa: E402
from evidence.courses import Course, Tried  # noqa: E402
from evidence.results import results_of  # noqa: E402
from ladder.run import FORMS, best_form  # noqa: E402
from ladder.run import SETTING as LADDER  # noqa: E402

IMAGES, TRIED_EPOCHS, EPOCHS = 45_000, 10, 30
KEPT = 0.6
FRESH = (1, 2, 3)
RECOVERY = {"epochs": 3, "lr": 0.02}
WAYS = ("energy", "removal-0.01-energy", "removal-0.1-energy", "l2", "taylor", "fpgm")
SETTING = Setting(
    study="from_scratch",
    network={"name": "resnet20"},
    data={"name": "cifar10"},
    training={"lr": 0.1, "batch_size": 128, "weight_decay": 5e-4, "precision": "float32", "evaluate_every": 1000},
    choosing=5000,
    chosen_from="training",
)
PLAIN = (
    Tried("plain", "as the others", {}),
    Tried("plain", "weight decay 0.001", {"weight_decay": 1e-3}),
    Tried("plain", "learning rate 0.05", {"lr": 0.05}),
)
STRENGTHS = ("5%", "20%", "60%")
"""Of the task loss of the first ten batches, each of both terms."""


def forms() -> dict[str, list[Tried]]:
    """Plain training, and the form that the ladder chose, each with what is tried of it."""
    best = best_form(results_of(LADDER))
    if best is None:
        return {"plain": list(PLAIN)}
    own = [Tried(best, one, {}, {"gradient": one, "curvature": one, **FORMS[best]}) for one in STRENGTHS]
    return {"plain": list(PLAIN), best: own}


def tried_course(tried: Tried) -> Course:
    """Seed 0, which chooses."""
    return Course(tried.trained(0, TRIED_EPOCHS, IMAGES, "-10epochs"), {KEPT: WAYS}, (), RECOVERY, IMAGES)


def chosen(tries: Sequence[Tried], known: Known) -> tuple[Tried, str] | None:
    """The setting that is best after recovery, and the way to cut it; None as long as one of them is open."""
    ends = {one: tried_course(one).end(KEPT, known, "choosing") for one in tries}
    if None in ends.values():
        return None
    best = max(ends, key=lambda one: ends[one] or 0.0)
    way = tried_course(best).best(KEPT, known)
    return None if way is None else (best, way)


def fresh(tries: Sequence[Tried], seed: int, known: Known) -> Course | None:
    """A fresh seed of what was chosen."""
    picked = chosen(tries, known)
    if picked is None:
        return None
    tried, way = picked
    return Course(tried.trained(seed, EPOCHS, IMAGES, "-30epochs"), {KEPT: (way,)}, (way,), RECOVERY, IMAGES)


def courses(known: Known) -> Iterator[Course]:
    """In the order in which they are run."""
    own = forms()
    for tries in own.values():
        yield from (tried_course(one) for one in tries)
    for seed in FRESH:
        yield from (one for tries in own.values() if (one := fresh(tries, seed, known)) is not None)


def cells(known: Known) -> list[Cell]:
    """Every cell that the results so far determine."""
    return [cell for one in courses(known) for cell in one.cells(known)]


def later(known: Known) -> list[str]:
    """What waits, and what no cell stands for."""
    own = forms()
    waiting = [line for one in courses(known) for line in one.later(known)]
    if len(own) == 1:
        waiting.append("the flow: waits for the ladder to choose a form")
    waiting += [
        f"seeds 1 to 3 of {form}: wait for seed 0" for form, tries in own.items() if chosen(tries, known) is None
    ]
    return [*waiting, "VGG-16 at half width, ResNet-18, ResNet-56 and further seeds: not begun"]


def main(arguments: Sequence[str] | None = None) -> int:
    return study(__doc__, SETTING, cells, later, arguments)


if __name__ == "__main__":
    sys.exit(main())
