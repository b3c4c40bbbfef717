"""Results files: what was measured, of which version, on which machine; and what of it is to be measured (again)."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flowprune
from flowprune.reporting.environment import environment

BUSY = 1.1
"""A clock counts as taken on an idle machine while wall time is at most this multiple of processor time."""


MEASURED = (
    *("engine", "artifacts", "models", "pruning.py"),
    *("methods/importance/weight_norms.py", "methods/importance/_scores", "methods/importance/_weights"),
)
"""What of flowprune a survey runs; training, the flow and the command line may change without its being out of date."""


def code_of(tool: str) -> str:
    """What was measured: a tool's version; of flowprune, whose code changes between versions, a digest of its sources too."""
    if tool != "flowprune":
        return version(tool)
    digest = hashlib.sha256()
    sources = Path(flowprune.__file__).parent
    parts = [sources / part for part in MEASURED]
    for path in sorted(path for part in parts for path in (part.rglob("*.py") if part.is_dir() else [part])):
        digest.update(path.relative_to(sources).as_posix().encode() + path.read_bytes())
    return f"{flowprune.__version__}+{digest.hexdigest()[:12]}"


class Results:
    """One tool's results on one list, written after every model.

    Args:
        path: the JSON file; what is in it is kept.
        tool: whose results they are.
        lines: the models of the list, in order.
    """

    def __init__(self, path: Path, tool: str, lines: list[str]) -> None:
        self.path, self.tool, self.code, self._lines = path, tool, code_of(tool), lines
        self.models: dict[str, dict[str, Any]] = {}
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))["models"]
            self.models = {record["model"]: record for record in found if "model" in record}

    def has(self, line: str, stage: str) -> bool:
        """Whether this stage was measured, of this code and, for times, on an idle machine."""
        record = self.models.get(line, {}).get(stage)
        return bool(record) and record["code"] == self.code and (stage != "times" or is_idle(record))

    def put(self, line: str, stage: str, record: dict[str, Any]) -> None:
        """Keep a stage's record and write the file. New code that works or not makes its older clocks void."""
        model = self.models.setdefault(line, {"model": line})
        if stage == "works":
            for other in [key for key in model if key not in ("model", "works")]:
                if model[other]["code"] != self.code or not record["works"]:
                    del model[other]
        model[stage] = record | {"code": self.code}
        content = {
            "tool": self.tool,
            "environment": environment(),
            "version": self.code,
            "models": [self.models[line] for line in self._lines if line in self.models],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)


def is_idle(times: dict[str, Any]) -> bool:
    """Whether a clock was taken while nobody else kept the processor; a tool that ran out of time needs no clock."""
    return "error" in times or times["seconds_wall"] <= BUSY * times["seconds"] + 0.05
