"""Run the demo on digits by the code of an older checkout and by this one's: what it comes to has to be the same.

    python benchmarks/same_demo/run.py --before CHECKOUT [--after CHECKOUT] [--work FOLDER] [--out results/same-demo/now.json]

Both carry out the older checkout's own recipe, one after the other on this machine, each in a process of its own. Compared are the
rows, the histories, the widths and the plans of ``results.json``, number by number, without what a clock said. A key that only the
newer version writes is named and is no difference. The older version evaluates 500 images a forward and the newer one fewer on a
processor, which moves the last digits of a summed loss; here both are held to 500. The newer one also measures which precision a
processor trains fastest in; here both compute in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from revisions import revision  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
COMPARED = ("rows", "histories", "channels", "plans")
EVALUATED_AT_ONCE = """
import sys
from flowprune.training import evaluation
evaluation._BATCH = evaluation._BATCH_ON_CPU = 500
from flowprune.cli import main
sys.exit(main(sys.argv[1:]))
"""
BY_THE_CLOCK = ("seconds", "images_per_second")


def differences(before: Any, after: Any, place: str) -> Iterator[tuple[str, str]]:
    """("differs" or "new", where) of everything in which two results are not the same."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            if key in BY_THE_CLOCK:
                continue
            if key not in before:
                yield "new", f"{place}: {key}"
            elif key not in after:
                yield "differs", f"{place}: {key} is gone"
            else:
                yield from differences(before[key], after[key], f"{place}: {key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{place}: {number}")
    elif before != after:
        yield "differs", f"{place}: {before} before, {after} now"


def carried_out(checkout: Path, recipe: Path, folder: Path) -> dict[str, Any]:
    """``results.json`` of a recipe, by the code of a checkout; what was carried out already is read."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, "-c", EVALUATED_AT_ONCE, "run", str(recipe), "--out", str(folder), "--resume"]
    if "precision" in (checkout / "src" / "flowprune" / "training" / "settings.py").read_text(encoding="utf-8"):
        command += ["--set", "training.precision=float32", "--set", "finetuning.precision=float32"]
    if not (folder / "results.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    content: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="an older checkout")
    parser.add_argument("--after", type=Path, default=ROOT, help="another checkout than this one")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "same-demo", help="not committed")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "same-demo" / "now.json")
    arguments = parser.parse_args()
    before, after = arguments.before.resolve(), arguments.after.resolve()
    (recipe,) = (before / "src").rglob("recipes/digits.yaml")
    old, new = (
        carried_out(checkout, recipe, arguments.work.resolve() / revision(checkout)[:12])
        for checkout in (before, after)
    )
    apart = [key for key in ("cpu", "cores", "threads") if old["environment"][key] != new["environment"][key]]
    if apart:  # how many cores a process may use decides how its sums are parted
        sys.exit(f"the two ran with another {' and '.join(apart)}: remove {arguments.work} and run both alike")
    found = {key: sorted(set(differences(old[key], new[key], key))) for key in COMPARED}
    content = {
        "command": "python benchmarks/same_demo/run.py --before CHECKOUT",
        "revisions": {"before": revision(before), "after": revision(after)},
        "environment": new["environment"],
        "compared": {key: len(old[key]) for key in COMPARED},
        "differs": [where for several in found.values() for kind, where in several if kind == "differs"],
        "only_now": [where for several in found.values() for kind, where in several if kind == "new"],
        "rows": new["rows"],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{len(content['differs'])} differences in {', '.join(COMPARED)}; {len(content['only_now'])} keys are new")
    return 1 if content["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
