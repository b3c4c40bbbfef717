"""Whether models arrive: pruned by half, saved, loaded in another process, exported, and the same in ONNX Runtime.

    python benchmarks/deployed/run.py [--only PATTERN] [--timeout 600] [--out results/deployed/deployed.json]

The 22 classifiers of torchvision in benchmarks/zoo/zoo.txt and 40 of its timm models, drawn by lot. Each keeps half of its MACs by
L2 with ``round_to="auto"`` for ONNX Runtime. The process that prunes leaves an artifact and what the small model says of two
images; another one loads the artifact, compares, exports with the batch left open, and asks ONNX Runtime about three other images.
Differences are shares of the largest logit; 1e-4 is the limit. Random weights, also where a builder begins with a head of zeros:
what is asked is whether a model is carried over.
Models in the output file are left out; an interrupted run goes on. A model that fails says where and why.
``pages.py deployed`` writes docs/deployed.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from revisions import revision  # noqa: E402
from zoo.subjects import Subject  # noqa: E402

from flowprune.artifacts.atomic_write import write_text  # noqa: E402
from flowprune.reporting import environment  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "benchmarks/zoo/zoo.txt"
TIMM, PIXELS = 40, 288
"""So many of timm's, of those with images up to this size."""
LIMIT = 1e-4

CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
import flowprune as fp
torch.set_num_threads(1)
step, name, size, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(1))

def logits(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]

def apart(left, right):
    return float((left - right).abs().max() / right.abs().max())

if step == "prune":
    torch.manual_seed(0)
    model = fp.models.create(name).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    made = fp.plan(model, images[:1], importance=fp.importance.L2(), macs=0.5, round_to="auto", backend="onnxruntime")
    small = fp.prune(model, made).eval()
    fp.save(small, f"{folder}/small.fp")
    with torch.no_grad():
        torch.save(logits(small(images[:2])), f"{folder}/said.pt")
    found = {"macs": made.macs, "params": made.params, "filters_removed": made.filters_removed}
else:
    import onnxruntime
    small = fp.load(f"{folder}/small.fp").eval()
    said = torch.load(f"{folder}/said.pt")
    with torch.no_grad():
        found = {"loaded": apart(logits(small(images[:2])), said)}
        there = logits(small(images[2:]))
    fp.export(small, images[:1], f"{folder}/small.onnx")
    session = onnxruntime.InferenceSession(f"{folder}/small.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found["exported"] = apart(torch.from_numpy(session.run(None, {given.name: images[2:].numpy()})[0]), there)
print("RECORD " + json.dumps(found))
"""


def subjects() -> list[Subject]:
    """torchvision's classifiers, and the lot's draw of timm's."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    listed = [Subject.of_line(line) for line in lines]
    classifiers = [one for one in listed if one.name.startswith("torchvision:") and not one.detects][:22]
    timm = [one for one in listed if one.name.startswith("timm:") and one.size <= PIXELS]
    return [*classifiers, *sorted(random.Random(0).sample(timm, TIMM), key=timm.index)]


def row(subject: Subject, timeout: float) -> dict[str, Any]:
    """What became of a model."""
    found: dict[str, Any] = {"model": subject.name, "size": subject.size, "revision": revision(ROOT)}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for step in ("prune", "deploy"):
            command = [sys.executable, "-c", CHILD, step, subject.name, str(subject.size), folder]
            try:
                ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
            except subprocess.TimeoutExpired:
                return {**found, "failed": f"{step}: not done in {timeout:g} s"}
            record = next((line for line in ended.stdout.splitlines() if line.startswith("RECORD ")), None)
            if record is None:
                last = ended.stderr.strip().splitlines()[-1:] or [f"ended by signal {-ended.returncode}"]
                return {**found, "failed": f"{step}: {last[0]}"}
            found |= json.loads(record[len("RECORD ") :])
    wrong = [f"{step} differs by {found[step]:.1e}" for step in ("loaded", "exported") if not found[step] <= LIMIT]
    return {**found, "failed": "; ".join(wrong) or None, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Go through the models, and write what became of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="models, as a pattern; their rows are made anew")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each of the two processes")
    parser.add_argument("--out", type=Path, default=ROOT / "results/deployed/deployed.json")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if asked.out.exists():
        rows = json.loads(asked.out.read_text(encoding="utf-8"))["rows"]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = subjects()
    for subject in chosen:
        known = any(one["model"] == subject.name for one in rows)
        if not fnmatch.fnmatchcase(subject.name, asked.only) or (known and asked.only == "*"):
            continue
        rows = [*(one for one in rows if one["model"] != subject.name), row(subject, asked.timeout)]
        rows.sort(key=lambda one: [each.name for each in chosen].index(one["model"]))
        content = {
            "command": "python benchmarks/deployed/run.py",
            "limit": LIMIT,
            "models": len(chosen),
            "environment": environment(),
            "rows": rows,
        }
        write_text(asked.out, json.dumps(content, indent=1) + "\n")
        last = next(one for one in rows if one["model"] == subject.name)
        print(f"{subject.name}: {last['failed'] or 'right'} ({last.get('seconds', 0):.0f} s)", flush=True)


if __name__ == "__main__":
    main()
