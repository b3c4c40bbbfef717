"""Does feature flow regularization make later pruning better? Five ways to the same MACs in the same number of epochs.

    python benchmarks/flow_then_prune/run.py benchmarks/flow_then_prune/digits.yaml [--seeds 0 1 2] [--data-dir DIR]

The recipe is that of the first way, and sets the rest:

- ffr, threshold: trained with the flow, what is dead removed, dead branch ends too, fine-tuned. Its MACs are its seed's budget.
- energy-aware, l1: trained plainly, cut by the nuclear norm, or by L1, to these MACs, fine-tuned.
- ffr, energy-aware and ffr, l1: the network of the first way, cut by these criteria to these MACs (coupled groups, no branches),
  fine-tuned.
- uncut, and ffr, uncut: the two dense networks, fine-tuned as long.

Every way is a run of the pipeline. All ways of a seed share its two dense networks, starting weights, calibration images and the
order of the training images. One file a seed, results/flow-then-prune/NAME-seedN.json, written when the seed is finished;
everything else stands in runs/flow-then-prune/, from where an interrupted benchmark goes on: finished stages are kept, a training
goes on from its last epoch. ``pages.py flow_then_prune`` makes the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowprune.artifacts.atomic_write import write_text
from flowprune.reporting import environment
from flowprune.studies.pipeline.course import course_of
from flowprune.studies.pipeline.job import Job, data_of, slug
from flowprune.studies.pipeline.run_folder import RunFolder
from flowprune.studies.pipeline.stages import StageNames, Stages
from flowprune.studies.recipe import Recipe, load_recipe
from flowprune.studies.sections import BudgetSection, ImportanceSection

# Where what studies share is found, also when this is run as a script.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from evidence.kept import kept  # noqa: E402


@dataclass(frozen=True)
class Way:
    """How a small network is made.

    Attributes:
        name: in tables and file names.
        training: "plain" or "ffr".
        criterion: registered name; "" for what is dead, None for no cut.
    """

    name: str
    training: str
    criterion: str | None


SETS_BUDGET = Way("ffr, threshold", "ffr", "")
WAYS = (
    SETS_BUDGET,
    Way("energy-aware", "plain", "nuclear_norm"),
    Way("l1", "plain", "l1"),
    Way("ffr, energy-aware", "ffr", "nuclear_norm"),
    Way("ffr, l1", "ffr", "l1"),
    Way("uncut", "plain", None),
    Way("ffr, uncut", "ffr", None),
)


def names_of_way(way: Way) -> StageNames:
    """How the files of a way's stages are named; the dense network is shared with the ways that train alike."""
    return lambda stage, budgets: slug(way.training if stage == "dense" else way.name, stage)


def checked(recipe: Recipe) -> Recipe:
    """The recipe, if the comparison can be made of it."""
    pruning = recipe.pruning
    sets = pruning is not None and len(pruning.budgets) == 1 and pruning.budgets[0].kind == "threshold"
    if recipe.flow is None or recipe.finetuning is None or not sets or len(recipe.networks) != 1:
        raise SystemExit("the recipe needs one network, a flow, pruning to one threshold, and finetuning")
    return recipe


def recipe_of(recipe: Recipe, way: Way, seed: int, macs: int | None) -> Recipe:
    """What one way does with one seed, as the recipe of a run."""
    assert recipe.pruning is not None and recipe.finetuning is not None
    pruning = recipe.pruning
    if way.criterion:
        pruning = pruning.model_copy(
            update={
                "budgets": [BudgetSection(macs=str(macs))],
                "importance": ImportanceSection(name=way.criterion),
                "branches": False,
            }
        )
    return recipe.model_copy(
        update={
            "methods": [way.training],
            "pruning": pruning,
            "training": recipe.training.model_copy(update={"seed": seed}),
            "finetuning": recipe.finetuning.model_copy(update={"seed": seed}),
        }
    )


def of_seed(recipe: Recipe, seed: int, work: Path, data_dir: Path | None, progress: bool = True) -> dict[str, Any]:
    """All ways with one seed, as far as they are not done yet.

    Args:
        recipe: of the first way.
        seed: of weights, images, their order and the calibration images.
        work: holds a run folder for every seed.
        data_dir: where data sets lie.
        progress: show bars.

    Returns:
        The content of the seed's result file.
    """
    folder = RunFolder(work / f"{recipe.name}-seed{seed}")
    first = recipe_of(recipe, SETS_BUDGET, seed, None)
    # The control of the flow measures by the recipe of the first way, so that recipe is what the folder is claimed for.
    folder.claim(first, None, resume=True, overwrite=False)
    data = data_of(recipe.data, data_dir, seed=0)  # every seed sees the same subset
    dense: dict[str, Any] = {}
    ways: dict[str, Any] = {}
    budget: int | None = None
    for way in WAYS:
        made = recipe_of(recipe, way, seed, budget)
        job = Job(made, data, torch.device("cpu"))
        heard = _said(way, seed)
        stages = Stages(job, folder, made.networks[0], way.training, names_of_way(way), progress, heard)
        trained, cut, tuned = made.phases_of(way.training)
        records = {
            stop.stage: stages.done(stop)
            for stop in course_of([trained, tuned] if way.criterion is None else [trained, cut, tuned])
        }
        dense[way.training] = kept(records.pop("dense"))
        if way == SETS_BUDGET:
            budget = records["pruned"]["plan"]["macs"][1]
        ways[way.name] = {stage: kept(record) for stage, record in records.items()}
    return {
        "flow_then_prune": recipe.name,
        "seed": seed,
        "recipe": first.model_dump(mode="json"),
        "environment": environment(),
        "budget_macs": budget,
        "dense": dense,
        "ways": ways,
    }


def _said(way: Way, seed: int) -> Any:
    return lambda line: print(f"seed {seed}, {way.name}: {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/flow-then-prune"))
    parser.add_argument("--work", type=Path, default=Path("runs/flow-then-prune"), help="not committed")
    parser.add_argument("--data-dir", type=Path, default=None)
    given = parser.parse_args()
    recipe = checked(load_recipe(given.recipe))
    torch.set_num_threads(recipe.threads or 1)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        file = given.out / f"{recipe.name}-seed{seed}.json"
        if file.exists():
            continue
        found = of_seed(recipe, seed, given.work, given.data_dir)
        command = f"python benchmarks/flow_then_prune/run.py {given.recipe.as_posix()} --seeds {seed}"
        write_text(file, json.dumps({"command": command, **found}, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
