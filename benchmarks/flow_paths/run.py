"""Are FFR's paths shorter and straighter? The flow of plain and FFR networks, trained from the same seeds.

    python benchmarks/flow_paths/run.py [--seeds 0 1 2] [--cifar PLAIN.fp FFR.fp --data-dir DIR]

Trains the demonstration with another network (three blocks a stage make paths that can bend), once a seed, and measures both
networks' flow on 256 training images, as ``flowprune flow`` does. ``--cifar`` adds a pair trained by
``recipes/resnet20-cifar10-plain-short.yaml`` and ``recipes/resnet20-cifar10-ffr-short.yaml``. Writes
``results/flow-paths/flow-paths.json``, without the coordinates of the pictures; ``pages.py flow_paths`` makes a table of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from flowprune.cli import main as flowprune
from flowprune.reporting import environment

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "results" / "flow-paths" / "flow-paths.json"
SETTINGS = (
    "networks=[{name: resnet20, options: {in_channels: 1, width: 8}}]",
    "training.epochs=20",
    "pruning=null",
    "finetuning=null",
)
PICTURE = ("coordinates", "labels", "counts", "along", "aside")


def ran(*arguments: object) -> None:
    """Run the command line; the program ends where it refuses."""
    code = flowprune([str(argument) for argument in arguments])
    if code:
        raise SystemExit(code)


def pair(plain: Path, ffr: Path, folder: Path, *more: object) -> dict[str, Any]:
    """The flow of two artifacts, without what only a picture needs."""
    out = folder / "flow.html"
    ran("flow", plain, "--against", ffr, "--out", out, "--overwrite", *more)
    content = json.loads(out.with_suffix(".json").read_text())
    found: dict[str, Any] = {key: content[key] for key in ("data", "split", "images", "seed", "comparison")}
    for method, model in zip(("plain", "ffr"), content["models"].values(), strict=True):
        kept = {key: model[key] for key in ("totals", "filters", "dead_filters", "points")}
        stages = [{key: part for key, part in stage.items() if key not in PICTURE} for stage in model["stages"]]
        found[method] = {**kept, "stages": stages}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cifar", type=Path, nargs=2, metavar=("PLAIN", "FFR"))
    parser.add_argument("--data-dir", type=Path)
    chosen = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in chosen.seeds:
            run = folder / f"seed{seed}"
            changes = (part for setting in (*SETTINGS, f"training.seed={seed}") for part in ("--set", setting))
            ran("run", *changes, "--out", run)
            models = (run / "models" / f"resnet20-{method}-dense.fp" for method in ("plain", "ffr"))
            tops = {row["method"]: row["top1"] for row in json.loads((run / "results.json").read_text())["rows"]}
            found.append(
                {
                    "networks": "digits, ResNet-20 of width 8",
                    "training_seed": seed,
                    "top1": tops,
                    **pair(*models, folder),
                }
            )
        if chosen.cifar:
            more = ("--data-dir", chosen.data_dir) if chosen.data_dir else ()
            found.append(
                {
                    "networks": "CIFAR-10, ResNet-20, 10 short epochs",
                    "training_seed": 0,
                    **pair(*chosen.cifar, folder, *more),
                }
            )
    RESULT.write_text(json.dumps({"environment": environment(), "pairs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
