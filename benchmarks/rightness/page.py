"""Write the tables of docs/rightness.md anew from results/random-architectures and results/zoo.

    python benchmarks/pages.py rightness [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from written_pages import written

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "benchmarks" / "zoo" / "zoo.txt"
BEGIN, END = "<!-- rightness:begin -->", "<!-- rightness:end -->"
SURVEYS = {"twins": "half of the channels", "threshold": "what is dead and constant"}
"""File of results/zoo -> what leaves."""


def main() -> int:
    results = ROOT / "results"
    drawn = _read(results / "random-architectures" / "random-architectures.json")
    zoo = {name: _read(results / "zoo" / f"{name}.json") for name in SURVEYS}
    listed = sum(not line.startswith("#") for line in ZOO.read_text(encoding="utf-8").splitlines() if line)
    lines = [*_architectures(drawn), "", *_zoo(zoo["twins"], zoo["threshold"], listed)]
    parts = [("random architectures", drawn["cases"], drawn["asked"])]
    parts += [(f"the zoo, {what}", len(zoo[name]["models"]), listed) for name, what in SURVEYS.items()]
    lines = [*_unfinished(parts), *lines]
    return written(ROOT / "docs" / "rightness.md", BEGIN, END, "\n".join(lines) + "\n")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _unfinished(parts: list[tuple[str, int, int]]) -> list[str]:
    """Which surveys have not come to their end, in front of what they found; nothing where all have."""
    short = [f"{what}, {done:,} of {asked:,}" for what, done, asked in parts if done < asked]
    return [f"**Not finished:** {'; '.join(short)}. What is below is what there is so far.", ""] if short else []


def _architectures(record: dict[str, Any]) -> list[str]:
    dead, undefined = record["dead"], record["twin_undefined"]
    wrong = Counter(failure["reference"] for failure in record["failures"])
    rows = [
        ("architectures", f"{record['cases']:,} of {record['asked']:,}"),
        ("inputs each is compared on", str(record["inputs_a_case"])),
        ("cut to a budget and equal to the twin", f"{record['equal_to_their_twin']:,}"),
        ("... largest difference, of the outputs' scale", f"{record['largest_difference']:.1e}"),
        ("... wrong", str(wrong["twin"])),
        ("... not judged, since the twin is not defined there", str(len(undefined))),
        ("... judged, of those from which something left", f"{100 * record['share_judged_by_the_twin']:.2f} %"),
        ("... nothing may leave, each weight with its reason", str(len(record["empty"]))),
        ("without what is dead and constant equal to the dense model", f"{dead['equal_to_the_dense_model']:,}"),
        ("... of them with filters removed", f"{dead['of_them_with_filters_removed']:,}"),
        ("... of them with constants folded", f"{dead['of_them_with_constants_folded']:,}"),
        ("... largest difference", f"{dead['largest_difference']:.1e}"),
        ("... wrong", str(wrong["dense"])),
        (
            "at the default tolerance equal to the twin",
            f"{dead['at_the_default_tolerance_equal_to_their_twin']:,} of {dead['at_the_default_tolerance']:,}",
        ),
    ]
    lines = ["## Random architectures", "", "| | |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if undefined:
        places = Counter(entry["where"].split(" ")[0] for entry in undefined)
        named = ", ".join(f"`{place}` {count}" for place, count in sorted(places.items()))
        lines += ["", f"Where the twin is not defined, a removed channel's zero counts in: {named}."]
    parts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(record["networks_with"].items()))
    revisions = ", ".join(revision[:7] for revision in record["revisions"])
    return [*lines, "", f"Networks with: {parts}.", "", f"Revisions that made the table: {revisions}."]


def _zoo(twins: dict[str, Any], threshold: dict[str, Any], listed: int) -> list[str]:
    lines = ["## The zoo", "", "| what leaves | compared with | models | verdicts | largest difference |"]
    lines += ["| --- | --- | ---: | --- | ---: |"]
    for what, reference, content in (
        ("half of the channels, at random", "the silenced twin", twins),
        (
            "a tenth of the filters (before batch norms, where there are any), dead and constant",
            "the dense model",
            threshold,
        ),
    ):
        models = content["models"]
        verdicts = Counter(model["verdict"] for model in models)
        named = ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))
        judged = [m["difference"] for m in models if m["verdict"].startswith("equal") and "own_rounding" not in m]
        lines.append(f"| {what} | {reference} | {len(models)} of {listed} | {named} | {max(judged, default=0.0):.1e} |")
    others = [model for model in threshold["models"] if model["verdict"] not in ("equal", "no batch norm")]
    if others:
        lines += ["", "By the threshold neither equal nor without a batch norm:", ""]
        lines += [
            f"- `{model['name']}`: {model['verdict']}" + (f", {model['error']}" if "error" in model else "")
            for model in others
        ]
    touchy = [model for model in threshold["models"] if model["verdict"] == "equal" and "own_rounding" in model]
    for model in touchy:
        itself = f"it differs from itself when its weights change in their last digits ({model['own_rounding']:.1e})"
        lines += [
            "",
            f"`{model['name']}` differs by {model['difference']:.1e}, less than {itself}: it is held to that.",
        ]
    removed = sum(model.get("filters_removed", 0) for model in threshold["models"])
    folded = sum(model.get("constants_folded", 0) for model in threshold["models"])
    return [*lines, "", f"By the threshold {removed:,} filters left the zoo, and {folded:,} constants were folded."]
