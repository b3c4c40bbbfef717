"""Prune every architecture of a list and check what comes out; each in a process of its own, with a time limit.

    python benchmarks/zoo.py [--list FILE] [--only PATTERN] [--limit SECONDS] [--out results/zoo/flowprune.json]

Per model: ``channels=0.5`` by L2. It *works* if the plan is not empty, the small model runs forward and backward in training mode,
its output has the dense one's shape, and save -> load (with ``model=``) gives the same output. Beside it:
parameters kept, the share of parameters in dimensions that may shrink at all, seconds a phase. Models already in the output
file are left out, so the survey can be interrupted and goes on; ``--again`` measures them anew.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ARCHITECTURES = Path(__file__).resolve().with_name("zoo.txt")


def survey(name: str, size: int) -> dict[str, Any]:
    """One model, in this process."""
    import torch

    import flowprune as fp
    from flowprune.planning import CoupledModel
    from flowprune.tracing.recorder import tensors_in

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def build() -> torch.nn.Module:
        return fp.models.create(name)

    model = build()
    images = torch.randn(2, 3, size, size)
    state = copy.deepcopy(model.state_dict())
    record: dict[str, Any] = {"name": name, "size": size, "works": False}
    began = time.perf_counter()
    coupled = CoupledModel.of(model, images, ())
    record["seconds_analysis"] = time.perf_counter() - began
    free = {(m.name, m.dimension) for group in coupled.coupling.groups for m in group.members}
    names = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in names.values())
    record["prunable"] = sum(p.numel() for n, p in names.items() if any((n, d) in free for d in range(p.dim()))) / total
    began = time.perf_counter()
    made = fp.plan(model, images, importance=fp.importance.L2(), channels=0.5)
    record["seconds_plan"] = time.perf_counter() - began
    began = time.perf_counter()
    small = fp.prune(model, made)
    record["seconds_cut"] = time.perf_counter() - began
    record["params_kept"] = made.params[1] / made.params[0]
    record["macs_kept"] = made.macs[1] / max(made.macs[0], 1)
    record["frozen"] = len(made.frozen)
    reasons: dict[str, int] = {}
    for reason in made.frozen.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    record["reasons"] = dict(sorted(reasons.items(), key=lambda item: -item[1])[:6])
    small.train()
    outputs = list(tensors_in(small(images)))
    sum(output.float().pow(2).mean() for output in outputs if output.is_floating_point()).backward()
    assert any(parameter.grad is not None for parameter in small.parameters()), "no gradient"
    dense_shapes = [tuple(output.shape) for output in tensors_in(model.train()(images))]
    assert [tuple(output.shape) for output in outputs] == dense_shapes, "another output shape"
    model.load_state_dict(state)  # the training-mode forward above moved running statistics
    small.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "small.fp"
        fp.save(small, path)
        again = fp.load(path, model=build()).eval()
        torch.manual_seed(0)
        left = list(tensors_in(small(images)))
        torch.manual_seed(0)
        right = list(tensors_in(again(images)))
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True)), "load gives another output"
    record["works"] = not made.is_empty
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=ARCHITECTURES)
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path("results/zoo/flowprune.json"))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SIZE"))
    arguments = parser.parse_args()
    if arguments.one:
        print("RECORD " + json.dumps(survey(arguments.one[0], int(arguments.one[1]))))
        return
    lines = [
        line.split()
        for line in arguments.list.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    records: dict[str, Any] = {}
    if arguments.out.exists():
        records = {record["name"]: record for record in json.loads(arguments.out.read_text(encoding="utf-8"))["models"]}
    for name, size in lines:
        if not fnmatch.fnmatchcase(name, arguments.only) or (name in records and not arguments.again):
            continue
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, size]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.limit, check=False)
            found = [line for line in done.stdout.splitlines() if line.startswith("RECORD ")]
            error = (done.stderr.strip().splitlines() or ["no output"])[-1]
            record = (
                json.loads(found[-1][7:])
                if found
                else {"name": name, "size": int(size), "works": False, "error": error[:400]}
            )
        except subprocess.TimeoutExpired:
            record = {"name": name, "size": int(size), "works": False, "error": f"over {arguments.limit:g} s"}
        records[name] = record
        kept = f"{record['params_kept']:.2f} of the parameters" if "params_kept" in record else record.get("error", "")
        print(f"{'works' if record['works'] else 'FAILS'} {name}: {kept}", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        ordered = [records[entry[0]] for entry in lines if entry[0] in records]
        arguments.out.write_text(json.dumps({"models": ordered}, indent=1) + "\n", encoding="utf-8")
    working = [record for record in records.values() if record["works"]]
    small = [record for record in working if record["params_kept"] <= 0.6]
    print(f"{len(working)} of {len(records)} work; {len(small)} keep at most 60 % of their parameters")


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
