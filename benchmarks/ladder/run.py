"""Does a phase with the flow make a trained network better to cut? Its forms, one rung above the other, beside plain training.

    python benchmarks/ladder/run.py [--data-dir DIR]     # goes on where it stopped
    python benchmarks/ladder/run.py --list               # what is open, in order, and how long it is expected to take

ResNet-20 with its pretrained weights, all images of CIFAR-10: 6 epochs plainly in three settings, or with each form of the flow
at two strengths; each network is cut to 60 and to 40 % of the MACs in several ways; the cut that is best on test images 0 to
1,999, and for plain training the energy-aware one, too, is recovered for 2 epochs. That is seed 0, which chooses a setting of
each form, and how it is cut. Then seeds 1 to 3 of what was chosen, the best form before the others. A training, a cut and a
recovery are cells of their own, one JSON each in results/ladder/. ``pages.py ladder`` writes the tables and the verdicts of
docs/ladder.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from evidence.cells import Cell, Known, Setting  # noqa: E402
from evidence.command_line import study  # noqa: E402
from evidence.courses import Course, Tried  # noqa: E402

IMAGES, EPOCHS = 50_000, 6
KEPT = (0.6, 0.4)
FRESH = (1, 2, 3)
RECOVERY = {"epochs": 2, "lr": 0.02, "warmup_epochs": 0.0}
WAYS = ("energy", "removal-0.01-energy")
PLAIN_WAYS = (*WAYS, "l2", "taylor", "fpgm")
SETTING = Setting(
    study="ladder",
    network={"name": "resnet20", "weights": "weights/resnet20-12fca82f.th"},
    data={"name": "cifar10", "normalize": "imagenet"},
    training={
        "lr": 0.05,
        "warmup_epochs": 0.5,
        "batch_size": 128,
        "weight_decay": 5e-4,
        "precision": "float32",
        "evaluate_every": 1000,
    },
)
PLAIN = (
    Tried("plain", "as the others", {}),
    Tried("plain", "weight decay 0.001", {"weight_decay": 1e-3}),
    Tried("plain", "learning rate 0.02", {"lr": 0.02}),
)
FORMS = {
    "today": {},
    "relative": {"size": "relative"},
    "group": {"size": "relative", "norm": "group", "reduction": "channel"},
    "path": {"size": "relative", "norm": "path", "reduction": "channel", "weights": "macs"},
}
"""Each adds something to the one before it."""
STRENGTHS = ("100%", "300%")
"""Of the task loss of the first ten batches, each of both terms: a trained network's loss is small."""


def flows(strength: str) -> list[Tried]:
    """Every form at one strength."""
    both = {"gradient": strength, "curvature": strength}
    return [Tried(form, strength, {}, {**both, **options}) for form, options in FORMS.items()]


TRIED = (PLAIN[0], *(one for strength in STRENGTHS for one in flows(strength)), *PLAIN[1:])


def course(tried: Tried, seed: int = 0, chosen: dict[float, str] | None = None) -> Course:
    """What is made of one training; ``chosen`` says how it is cut, once that was chosen."""
    plain = tried.form == "plain"
    always: tuple[str, ...] = ("energy",) if plain else ()
    tries = dict.fromkeys(KEPT, PLAIN_WAYS if plain else WAYS)
    if chosen is not None:
        tries = {kept: tuple(dict.fromkeys((*always, way))) for kept, way in chosen.items()}
        always = tuple(way for ways in tries.values() for way in ways)
    return Course(tried.trained(seed, EPOCHS, IMAGES), tries, always, RECOVERY, IMAGES)


def worth(tried: Tried, known: Known) -> float | None:
    """What seed 0 makes of it on the images that choose, over the budgets; None where that is not run yet."""
    ends = [course(tried).end(kept, known, "choosing") for kept in KEPT]
    return None if None in ends else sum(end for end in ends if end is not None) / len(ends)


def chosen(form: str, known: Known) -> Tried | None:
    """The setting of a form that seed 0 is best with; None as long as one of them is open."""
    worths = {one: worth(one, known) for one in TRIED if one.form == form}
    if None in worths.values():
        return None
    return max(worths, key=lambda one: worths[one] or 0.0)


def best_form(known: Known) -> str | None:
    """The form of the flow that seed 0 is best with; None as long as one is open."""
    worths = {form: worth(one, known) for form in FORMS if (one := chosen(form, known)) is not None}
    return max(worths, key=lambda form: worths[form] or 0.0) if len(worths) == len(FORMS) else None


def fresh(form: str, seed: int, known: Known) -> Course | None:
    """A fresh seed of what was chosen of a form; None as long as nothing is."""
    tried = chosen(form, known)
    if tried is None:
        return None
    first = course(tried)
    ways = {kept: way for kept in KEPT if (way := first.best(kept, known)) is not None}
    return course(tried, seed, ways)


def courses(known: Known) -> Iterator[Course]:
    """In the order in which they are run."""
    for tried in TRIED:
        yield course(tried)
    best = best_form(known)
    if best is None:
        return
    others = [form for form in FORMS if form != best]
    for forms in (("plain", best), others):
        for seed in FRESH:
            yield from (one for form in forms if (one := fresh(form, seed, known)) is not None)


def cells(known: Known) -> list[Cell]:
    """Every cell that the results so far determine."""
    return [cell for one in courses(known) for cell in one.cells(known)]


def later(known: Known) -> list[str]:
    """What waits, and what no cell stands for."""
    waiting = [line for one in courses(known) for line in one.later(known)]
    if best_form(known) is None:
        waiting.append("seeds 1 to 3 of plain training and of every form: wait for what seed 0 chooses")
    return [*waiting, "VGG-16 at half width, ResNet-18, ResNet-56 and further seeds: not begun"]


def main(arguments: Sequence[str] | None = None) -> int:
    return study(__doc__, SETTING, cells, later, arguments)


if __name__ == "__main__":
    sys.exit(main())
