"""The first epochs of the recipes that need a GPU for all of theirs: that they run, what they learn, what an epoch takes.

    python benchmarks/first_epochs/run.py resnet56 --epochs 2 [--data-dir DIR]
    python benchmarks/first_epochs/run.py resnet110 --epochs 1 --change data.subset=5000

Runs ``flowprune compare`` on recipes/compare-NETWORK-cifar10-eap.yaml as a user does, one seed and without the control, until the
longest training of it has had so many epochs; then interrupts it, as a user does, with the keyboard's signal. A second call goes on
from there. The result file is results/first-epochs/NETWORK.json. ``pages.py first_epochs`` makes the table of docs/comparison.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flowprune.artifacts.atomic_write import write_text
from flowprune.reporting import environment

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("resnet56", "resnet110")
ALWAYS = ("seeds=[0]", "control=false")
POLL_SECONDS = 2.0


def command(network: str, changes: list[str]) -> list[str]:
    """What a user types, but for the folders."""
    recipe = f"recipes/compare-{network}-cifar10-eap.yaml"
    return ["flowprune", "compare", recipe, *[part for change in (*ALWAYS, *changes) for part in ("--set", change)]]


def epochs_in(stages: Path) -> dict[str, list[dict[str, Any]]]:
    """Stage -> a record for every epoch it has finished."""
    return {
        file.parent.name: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(stages.glob("*/metrics.jsonl"))
    }


def longest(stages: Path) -> int:
    """How many epochs the longest training has had."""
    return max((len(epochs) for epochs in epochs_in(stages).values()), default=0)


def run_until(words: list[str], stages: Path, epochs: int) -> int:
    """Run the command until a training has had ``epochs`` epochs, interrupt it then, and return its exit status."""
    # A shell starts what runs in the background with the keyboard's signal ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = [sys.executable, "-m", "flowprune", *words[1:]]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if longest(stages) >= epochs:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(POLL_SECONDS)
    return process.wait()


def rows_in(stages: Path) -> dict[str, dict[str, Any]]:
    """Stage -> its row, of every finished one."""
    return {
        file.parent.name: json.loads(file.read_text(encoding="utf-8"))["row"]
        for file in sorted(stages.glob("*/stage.json"))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--change", action="append", default=[], help="of the recipe, e.g. data.subset=5000")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "first-epochs", help="not committed")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "first-epochs")
    given = parser.parse_args()
    words, work = command(given.network, given.change), given.work / given.network
    folders = ["--out", str(work), "--resume", *(["--data-dir", str(given.data_dir)] if given.data_dir else [])]
    if longest(work / "stages") < given.epochs:
        status = run_until([*words, *folders], work / "stages", given.epochs)
        if longest(work / "stages") < given.epochs:
            sys.exit(f"the comparison ended with status {status} before a training had {given.epochs} epochs")
    result = {
        "command": " ".join(["python benchmarks/first_epochs/run.py", given.network, f"--epochs {given.epochs}"])
        + "".join(f" --change {change}" for change in given.change),
        "runs": " ".join(words),
        "network": given.network,
        "environment": environment(),
        "finished": rows_in(work / "stages"),
        "epochs": epochs_in(work / "stages"),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(given.out / f"{given.network}.json", json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
