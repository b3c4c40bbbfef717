"""Mutate the engine, one fault at a time, and write down who notices: the certificate, the silenced twin, or nobody.

    python benchmarks/mutants/run.py [--out results/mutants/mutants.json] [--only PATTERN] [--again]

The networks are the torture networks of the tests, three users' shapes and ten architectures of the zoo, with random weights in
float64; and some with dead filters, for the faults in the constants, whose reference is the dense model. Mutants already in the
output file are left out, so the run can be interrupted and goes on; ``--again`` tries them anew.
The table is written by ``benchmarks/mutants/page.py``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OF_A_KIND = {True: 1, False: 2}
"""Mutants of one kind on one network: fewer on the zoo's (those with a colon in their name), which take longer."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/mutants/mutants.json"))
    parser.add_argument("--only", default="*", help="networks, as a pattern")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "networks")]
    import torch
    from mutation.collection import EVERY_NAME, mutants_of, subject_of
    from mutation.trial import trial

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    finished: list[str] = []
    if arguments.out.exists():
        content = json.loads(arguments.out.read_text(encoding="utf-8"))
        known = {_key(verdict): verdict for verdict in content["mutants"]}
        finished = content["finished"]
    for name in EVERY_NAME:
        if not fnmatch.fnmatchcase(name, arguments.only) or (name in finished and not arguments.again):
            continue
        began = time.process_time()
        subject = subject_of(name)
        mutants = mutants_of(subject, OF_A_KIND[":" in name])
        if arguments.again:
            known = {key: verdict for key, verdict in known.items() if key[0] != name}
        for mutant in mutants:
            if (name, mutant.kind, mutant.what) not in known:
                verdict = trial(subject, mutant).as_dict()
                known[_key(verdict)] = verdict
                if verdict["caught"] == "survived" or not verdict["untouched"]:
                    print(f"SURVIVED {verdict}", flush=True)
                _write(arguments.out, known, finished)
        finished = [entry for entry in EVERY_NAME if entry in {*finished, name}]
        _write(arguments.out, known, finished)
        counts = Counter(verdict["caught"] for key, verdict in known.items() if key[0] == name)
        seconds = time.process_time() - began
        print(f"{name}: {len(mutants)} mutants, {dict(counts)}, {seconds:.0f} s", flush=True)
    survived = sum(verdict["caught"] == "survived" or not verdict["untouched"] for verdict in known.values())
    print(f"{len(known)} mutants, {survived} survived")
    return 1 if survived else 0


def _key(verdict: dict[str, Any]) -> tuple[str, str, str]:
    return verdict["network"], verdict["kind"], verdict["what"]


def _write(path: Path, known: dict[tuple[str, str, str], dict[str, Any]], finished: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(verdict)}" for verdict in known.values())
    path.write_text(f'{{"finished": {json.dumps(finished)}, "mutants": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
