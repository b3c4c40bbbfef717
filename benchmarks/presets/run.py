"""The short form of every preset, from the start of its training to its last row: results/presets/NAME-seedN.json, one file a run.

    python benchmarks/presets/run.py [NAME ...] [--seeds 0 1 2] [--out results/presets] [--work runs/presets]

Each file says how long its run took. What is written already is not run again; an interrupted run goes on where it stopped.
``pages.py presets`` makes docs/methods.md and a page for every preset of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from flowprune.artifacts.atomic_write import write_text
from flowprune.methods.presets import REGISTRY
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import load_recipe

LEFT_OUT = ("histories", "flow_profiles", "plans", "channels")
"""Of the results of a run: what would fill a file a hundred times as long."""


def of_preset(name: str, seed: int, work: Path) -> dict[str, Any]:
    """What the short form of a preset came to with a seed."""
    recipe = load_recipe(method=name)
    phases = [
        phase.model_copy(update={"training": phase.training.model_copy(update={"seed": seed})})
        if getattr(phase, "training", None) is not None
        else phase
        for phase in recipe.phases_of(name)
    ]
    training = recipe.training.model_copy(update={"seed": seed})
    recipe = recipe.model_copy(update={"training": training, "phases": {name: phases}})
    results = run(recipe, work / f"{name}-seed{seed}", resume=True, progress=False, say=print)
    return {key: value for key, value in results.items() if key not in LEFT_OUT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(REGISTRY)}; all if left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("results/presets"))
    parser.add_argument("--work", type=Path, default=Path("runs/presets"), help="not committed")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for name in asked.names or REGISTRY:
            file = asked.out / f"{name}-seed{seed}.json"
            if not file.is_file():
                write_text(file, json.dumps(of_preset(name, seed, asked.work), indent=1) + "\n")


if __name__ == "__main__":
    main()
