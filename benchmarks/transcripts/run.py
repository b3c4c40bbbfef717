"""What the commands of the pages print: they are run in an empty folder, and their output is kept in results/transcripts/.

    python benchmarks/transcripts/run.py [NAME ...]     # first-cut, digits, pictures

Lines with times are left out, so that the same comes out on every machine that computes alike. ``pages.py transcripts`` puts the
commands and what they printed into the pages.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from transcripts.drawn_pictures import draw_folder

RESULTS = Path(__file__).resolve().parents[2] / "results/transcripts"

DIGITS = "--data digits --data-option size=8"
SIZE = "--data-option size=32"
PLAIN = "--set augmentation=null --set precision=float32"
TRANSCRIPTS = {
    "first-cut": [
        "flowprune prune resnet20 --importance l2 --macs 50% --out small.fp",
        "flowprune measure small.fp",
        "flowprune export small.fp --out small.onnx",
    ],
    "digits": [
        f"flowprune finetune resnet8 --model-option in_channels=1 --model-option width=8 {DIGITS} --epochs 4 --lr 0.1 {PLAIN} "
        "--out dense.fp",
        f"flowprune compress dense.fp --macs 0.5 --epochs 4 {PLAIN} --out one",
        "flowprune compress dense.fp --max-drop 0.5 --validation-images 259",
    ],
    "pictures": [
        f"flowprune finetune vgg6 --model-option width=8 --model-option classes=3 --data imagefolder --data-dir shapes {SIZE} "
        f"--epochs 20 --lr 0.1 {PLAIN} --out dense.fp",
        f"flowprune compress dense.fp --data shapes {SIZE} --macs 0.5 --round-to auto --epochs 10 {PLAIN} --out small",
        "flowprune predict small/model.onnx shapes/val/disc/0.png",
    ],
}
"""Name of a transcript -> its commands, in order, in one folder."""

WATCHED = re.compile(r"An image takes|.*: +\d+ %, ")
"""Lines of times, and of how far something is."""


def printed(command: str, folder: Path) -> str:
    """What a command printed, errors and warnings before the rest, without progress and lines of times."""
    words = shlex.split(command)[1:]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "flowprune",
            *words,
            *(["--threads", "1"] if words[0] in ("finetune", "compress") else []),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    lines = (done.stderr + done.stdout).splitlines()
    return "\n".join(line.rstrip() for line in lines if not WATCHED.match(line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=", ".join(TRANSCRIPTS))
    asked = parser.parse_args().name
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in asked or TRANSCRIPTS:
        with tempfile.TemporaryDirectory() as folder:
            if name == "pictures":
                draw_folder(Path(folder) / "shapes", {"train": 40, "val": 20})
            found = [{"command": one, "printed": printed(one, Path(folder))} for one in TRANSCRIPTS[name]]
        text = json.dumps(found, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
