"""What the cells of recoveries.py say, as tables."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

CRITERIA = ("l2", "nuclear_norm", "taylor", "fpgm", "random")
KEPT = (0.6, 0.8, 0.4)
DRAWS = 5
WAYS = ("none", "batch_norm", "least_squares", "least_squares+batch_norm")


def recovery_table(folder: Path) -> str | None:
    """One row a criterion and way to recover, one column a budget; None as long as no cell is there."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-draw*.json"))]
    if not cells:
        return None
    choice = json.loads((folder / "choice.json").read_text(encoding="utf-8"))
    criteria = list(dict.fromkeys(cell["criterion"] for cell in sorted(cells, key=_best)))
    asked = sorted({cell["asked"] for cell in cells}, reverse=True)
    lines = [
        "| criterion | recovery | " + " | ".join(f"{100 * (1 - kept):.0f} % fewer" for kept in asked) + " |",
        "| --- | --- |" + " ---: |" * len(asked),
    ]
    for criterion in criteria:
        ways = list(dict.fromkeys([*WAYS, *(w for c in cells if c["criterion"] == criterion for w in c["top1"])]))
        for way in ways:
            columns = [_shown(cells, criterion, way, kept) for kept in asked]
            lines.append(f"| {criterion if way == WAYS[0] else ''} | {way} | {' | '.join(columns)} |")
    chosen, dense = choice["chosen"], choice["dense"]
    tried = ", ".join(f"{one['layers']} {one['ridge']:g}: {one['top1']:.2f}" for one in choice["tried"])
    first, last = cells[0]["test_images"]
    tested = "" if choice["precision"] == "float32" else f", tested in {choice['precision']}"
    whole = sum(set(WAYS) <= cell["top1"].keys() for cell in cells)
    of_all = f"Of {len(CRITERIA) * len(KEPT) * DRAWS} cells {len(cells)} are begun and {whole} complete, with all {len(WAYS)} ways"
    lines += [
        "",
        f"Top-1 on test images {first:,} to {last - 1:,}, mean ± deviation over the draws that are there (in brackets how many). "
        f"Dense: {dense['top1']:.2f} % at {dense['macs']:,} MACs{tested}. Images 0 to {choice['images'][1] - 1:,} chose the layers "
        f"({chosen['layers']}) and the ridge ({chosen['ridge']:g}) for L2 at 40 % fewer MACs ({tried}). `{choice['command']}`, "
        f"`results/one-shot/recoveries/{choice['network']}/`. {of_all}; `--list` names what is missing.",
    ]
    if (folder / "norms.json").exists():
        lines += ["", *_norms(json.loads((folder / "norms.json").read_text(encoding="utf-8")))]
    return "\n".join(lines)


def _norms(alone: dict[str, Any]) -> list[str]:
    """What batch norms estimated anew do by themselves."""
    names = {"dense": "dense", "least_squares": "L2, 40 % fewer MACs, refitted"}
    kinds = list(alone["dense"])
    return [
        "Batch norms estimated anew by themselves, on the images that choose (`norms.json`):",
        "",
        "| network | " + " | ".join(kinds) + " |",
        "| --- |" + " ---: |" * len(kinds),
        *(
            f"| {name} | " + " | ".join(f"{alone[key][kind]:.2f}" for kind in kinds) + " |"
            for key, name in names.items()
        ),
    ]


def _best(cell: dict[str, Any]) -> float:
    return -max(cell["top1"].values())


def _shown(cells: list[dict[str, Any]], criterion: str, way: str, kept: float) -> str:
    alike = (cell["top1"] for cell in cells if cell["criterion"] == criterion and cell["asked"] == kept)
    found = [top1[way] for top1 in alike if way in top1]
    if not found:
        return "-"
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.2f}{spread} ({len(found)})"
