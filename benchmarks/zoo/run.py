"""Prune every architecture of a list by flowprune and its rivals, and check what comes out; each in a process of its own.

    python benchmarks/zoo/run.py [--tool all|NAME ...] [--list zoo|beyond|others ...] [--only PATTERN ...] [--stage NAME ...]
    [--again]

Per model half of the channels go, by L2, and the classifier's outputs stay. It *works* if something was removed, the small model
runs forward and backward in training mode, and its outputs have the dense one's shapes in both modes; of flowprune more is asked: a
certificate, a source model and random generators bit for bit as they were, and save -> load (with ``model=``) -> the same output. A
rival may have the model in evaluation or in training mode, whichever works.

Three stages a model: ``works``; ``times`` (of what works: seconds and memory, warmed up, one thread); ``export`` (``torch.export``,
flowprune only). What is in ``results/zoo/`` already, of the same code and on an idle machine, is left out: the survey can be
interrupted and goes on, and the same command measures again what a busy machine has spoilt.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from zoo.records import Results  # noqa: E402
from zoo.stages import STAGES, TOOLS, adapter  # noqa: E402
from zoo.subjects import Subject, read_list  # noqa: E402

HERE = Path(__file__).resolve().parent
LISTS = {"zoo": HERE / "zoo.txt", "beyond": HERE / "beyond.txt", "others": HERE / "others.txt"}
SAMPLED_THRICE = ("densenet121", "vgg16_bn", "resnet18", "resnet50", "mobilenet_v2", "convnext_tiny")
SLOW = "torch-kirigami"  # runs into the limit on most models: hours, which come last
MARK = "RECORD "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", nargs="+", default=["all"], choices=["all", *TOOLS])
    parser.add_argument("--list", nargs="+", default=["zoo", "beyond"], choices=list(LISTS))
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of the models' names")
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--again", action="store_true", help="measure anew what is in the results already")
    parser.add_argument("--limit", type=int, default=120, help="processor seconds a model, stage and mode")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "results" / "zoo")
    parser.add_argument("--one", nargs=4, metavar=("TOOL", "STAGE", "KNOWN", "LINE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        tool, stage, known, line = arguments.one
        one(tool, stage, json.loads(known), Subject.of_line(line))
        return
    tools = list(TOOLS) if "all" in arguments.tool else arguments.tool
    absent = [tool for tool in tools if importlib.util.find_spec(tool.replace("-", "_")) is None]
    if absent:
        sys.exit(f"{', '.join(absent)} not installed: pip install -e '.[rivals]', or --tool flowprune")
    for name in arguments.list:
        survey(name, [tool for tool in tools if tool != SLOW], arguments)
    if SLOW in tools and "zoo" in arguments.list:
        survey("zoo", [SLOW], arguments)


def one(tool: str, stage: str, known: dict[str, Any], subject: Subject) -> None:
    """One stage of one model, in this process; the last record printed is the one that counts."""
    import torch

    torch.set_num_threads(1)
    STAGES[stage](tool, subject, known, lambda record: print(MARK + json.dumps(record), flush=True))


def survey(name: str, tools: list[str], arguments: argparse.Namespace) -> None:
    """All stages of all tools on one list.

    The models beyond the zoo are for flowprune, those of other libraries for its nearest rival, too; and both only to see whether
    they work.
    """
    subjects = read_list(LISTS[name])
    lines = [subject.line for subject in subjects]
    suffix = "" if name == "zoo" else f"-{name}"
    results = {
        tool: Results(arguments.out / f"{tool}{suffix}.json", tool, lines)
        for tool in tools
        if name == "zoo" or tool == "flowprune" or (name == "others" and tool == "torch-pruning")
    }
    for number, subject in enumerate(subjects, 1):
        if not any(fnmatch.fnmatchcase(subject.name, pattern) for pattern in arguments.only):
            continue
        for tool, found in results.items():
            for stage in arguments.stage:
                skipped = (stage == "export" and tool != "flowprune") or (stage != "works" and name != "zoo")
                if skipped or (found.has(subject.line, stage) and not arguments.again):
                    continue
                known = found.models.get(subject.line, {}).get("works", {})
                if stage != "works" and not known.get("works"):
                    continue
                record = measure(tool, stage, subject, known, arguments.limit)
                found.put(subject.line, stage, record)
                print(f"[{name} {number}/{len(subjects)}] {tool} {stage} {subject.name}: {brief(record)}", flush=True)
    for tool, found in results.items():
        answered = [found.models[line]["works"] for line in lines if "works" in found.models.get(line, {})]
        working = [record for record in answered if record["works"]]
        few = sum(record["params_kept"] <= 0.6 for record in working)
        print(f"{name}, {tool}: {len(working)} of {len(answered)} work; {few} keep at most 60 % of their parameters")


def measure(tool: str, stage: str, subject: Subject, known: dict[str, Any], limit: int) -> dict[str, Any]:
    """One stage's record; of several modes that of the first that works, else the last's failure."""
    if stage != "works":
        samples = 3 if stage == "times" and subject.name.partition(":")[2] in SAMPLED_THRICE else 1
        given = {key: known[key] for key in ("mode", "classes")}
        records = [in_a_process(tool, stage, given, subject, limit) for _ in range(samples)]
        return sorted(records, key=lambda record: record.get("seconds", 0.0))[samples // 2]
    for mode in adapter(tool).MODES:
        record = in_a_process(tool, stage, {"mode": mode}, subject, limit)
        if record["works"] or record["error"].startswith("over "):  # another mode is no faster
            break
    return record


def in_a_process(tool: str, stage: str, known: dict[str, Any], subject: Subject, limit: int) -> dict[str, Any]:
    """Run one stage apart; a process over its limit of processor time is ended, whatever else the machine does."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(Path(__file__)),
        "--one",
        tool,
        stage,
        json.dumps(known),
        subject.line,
    ]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))

    load, over = os.getloadavg()[0], f"over {limit} s"
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=surroundings,
            preexec_fn=limited,
            timeout=8 * limit,
            check=False,
        )
        out, code, complaint = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as stopped:
        out, code, complaint = (stopped.stdout or b"").decode(), -signal.SIGXCPU, ""
    found = [json.loads(line[len(MARK) :]) for line in out.splitlines() if line.startswith(MARK)]
    record: dict[str, Any] = found[-1] if found else {}
    if code == -signal.SIGXCPU:
        record["error"] = over
    elif code != 0:
        last = (complaint.strip().splitlines() or [f"ended by signal {-code}"])[-1]
        record["error"] = re.sub(r"(?:/[\w.+-]+)+/", "", last)[:300]  # no folder of this machine
    if stage == "works":
        record.setdefault("works", False)
        if "error" in record:
            record["works"] = False
    return record | {"load": round(load, 2), "process_wall": round(time.perf_counter() - began, 1)}


def brief(record: dict[str, Any]) -> str:
    """A record in a few words."""
    if "seconds" in record:
        return f"{record['seconds']:.2f} s, {record['memory_peak'] - record['memory_before']:.0f} MiB"
    if "dense" in record:
        return f"dense {'exports' if record['dense'] else 'does not'}, pruned {record.get('pruned')}"
    if record.get("works"):
        return f"works, {record['params_kept']:.2f} of the parameters"
    return f"FAILS: {record.get('error', 'no answer')[:120]}"


if __name__ == "__main__":
    main()
