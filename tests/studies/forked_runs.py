"""One process that has everything imported, and forks a child for every run it is asked for: no run waits for torch.

    python forked_runs.py FOLDER        reads a preset's name a line, answers a line of JSON

For each name it runs the preset on a toy three times in children of its own: undisturbed; killed in the middle of a training; and
taken up again. A child that never took a gradient before may use threads of its own, so the parent takes none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import plotly.graph_objects
import sklearn.cluster
import torch._dynamo  # what a run imports on its way

import flowprune.methods
import flowprune.studies.flow_paths
from flowprune.methods import list_methods
from flowprune.methods.allocators import REGISTRY as ALLOCATORS
from flowprune.methods.presets import REGISTRY
from flowprune.studies.phases.short_trainings import KeptOnDisk
from flowprune.studies.pipeline import run as job
from flowprune.studies.pipeline.run import run
from flowprune.studies.preset_phases import short_form
from flowprune.studies.recipe import Recipe
from flowprune.training import load_data, loop

IMPORTED = (plotly.graph_objects, sklearn.cluster, torch._dynamo, flowprune.studies.flow_paths)
BATCH, STEPS_AN_EPOCH, EPOCHS = 8, 5, 12
"""Sixty steps, which one, two, three, four or six trainings share evenly."""
TIMED = ("seconds", "images_per_second", "stage_seconds", "environment")


def toy(name: str) -> Recipe:
    """The short form of a preset with sixty steps of training, on a network and images that take no time."""
    content = short_form(REGISTRY[name])
    trained = [phase for phase in content["phases"] if phase["phase"] in ("train", "recover") or "training" in phase]
    for phase in trained:
        short = {"epochs": EPOCHS // len(trained), "batch_size": BATCH, "evaluate_every": 1000}
        phase["training"] = {**phase.get("training", {}), **short}
    for phase in content["phases"]:
        if phase.get("budgets"):
            phase["budgets"] = phase["budgets"][:1]  # each further one is a row of the same kind
        if "points" in phase.get("allocator_options", {}):
            phase["allocator_options"]["points"] = 3  # each further one is a forward
    content["network"] = {"name": "toy_network:ToyNetwork"}
    content["data"] = {**content["data"], "subset": BATCH * STEPS_AN_EPOCH, "size": 8}
    return Recipe.model_validate(content)


def forked(work: Callable[[], None]) -> int:
    """The exit status of a child that did the work; negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(times: int, owner: Any, name: str) -> None:
    """From now on this process kills itself as soon as it has written so many times by ``owner``'s function of this name."""
    write, written = getattr(owner, name), count(1)

    def writing(*given: Any) -> None:
        write(*given)
        if next(written) == times:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, writing)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMED}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def differences(whole: Path, resumed: Path) -> list[str]:
    """The models and results in which two run folders are not the same, to the bit."""
    names = sorted({path.name for folder in (whole, resumed) for path in (folder / "models").iterdir()})
    models = [(folder / "models" / name for folder in (whole, resumed)) for name in names]
    found = [name for name, (one, other) in zip(names, models, strict=True) if one.read_bytes() != other.read_bytes()]
    results = [without_times(json.loads((folder / "results.json").read_text())) for folder in (whole, resumed)]
    return found + [key for key in results[0] if results[0][key] != results[1][key]]


def disturbed(name: str, folder: Path) -> dict[str, Any]:
    """What became of the three runs."""
    recipe = toy(name)
    whole, resumed = folder / f"{name}-whole", folder / f"{name}-killed"
    courses = recipe.phases_of(name)
    ended = forked(lambda: (run(recipe, whole, progress=False), None)[1])
    if ended != 0:
        return {"whole": ended}
    epochs = [len(path.read_text().splitlines()) for path in sorted((whole / "stages").glob("*/metrics.jsonl"))]
    acting = [getattr(phase, "regularizers", None) for phase in courses]
    training = [phase.training.epochs for phase in courses if hasattr(phase, "share")]
    before = courses[: next((n for n, some in enumerate(acting) if some), 0)]
    behind = sum(phase.training.epochs for phase in before if hasattr(phase, "share"))
    deaths = [(behind + max(1, training[0] // 2), loop, "write_checkpoint")]
    allocators = [getattr(phase, "allocator", None) for phase in courses]
    if any(one is not None and getattr(ALLOCATORS[one], "needs_training", False) for one in allocators):
        deaths.append((2, KeptOnDisk, "__setitem__"))  # in the middle of the search, too

    def dying(death: tuple[int, Any, str]) -> None:
        killed_after(*death)
        run(recipe, resumed, progress=False, resume=True)

    killed = [forked(partial(dying, death)) for death in deaths]
    ended = forked(lambda: (run(recipe, resumed, progress=False, resume=True), None)[1])
    different = differences(whole, resumed) if ended == 0 else []
    steps = STEPS_AN_EPOCH * sum(epochs)
    return {"whole": 0, "killed": killed, "resumed": ended, "different": different, "steps": steps}


def main() -> None:
    torch.set_num_threads(1)
    job.write_report = lambda results, path: None  # the page is drawn from results that are compared anyway
    load_data("digits", size=8)
    for room in Path(flowprune.methods.__file__).parent.glob("*/registry.py"):
        list_methods(room.parent.name)  # which imports all of it
    for line in sys.stdin:
        print(json.dumps(disturbed(line.strip(), Path(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
