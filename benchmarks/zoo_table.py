"""Write the table of docs/zoo.md anew from results/zoo/flowprune.json.

python benchmarks/zoo_table.py
"""

from __future__ import annotations

import json
from pathlib import Path

BEGIN, END = "<!-- zoo:begin -->", "<!-- zoo:end -->"


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    page = root / "docs" / "zoo.md"
    models = json.loads((root / "results" / "zoo" / "flowprune.json").read_text(encoding="utf-8"))["models"]
    working = [model for model in models if model["works"]]
    small = [model for model in working if model["params_kept"] <= 0.6]
    lines = [
        f"{len(working)} of {len(models)} work; {len(small)} keep at most 60 % of their parameters.",
        "",
        "| model | works | parameters kept | MACs kept | prunable | most frequent reason to stay, beside being an output |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for model in models:
        if not model["works"]:
            lines.append(f"| {model['name']} | no | | | | {model.get('error', 'nothing could be removed')[:120]} |")
            continue
        reasons = [reason for reason in model["reasons"] if reason != "it is an output of the model"]
        why = reasons[0].replace("|", "/")[:120] if reasons else ""
        shares = " | ".join(f"{model[key]:.2f}" for key in ("params_kept", "macs_kept", "prunable"))
        lines.append(f"| {model['name']} | yes | {shares} | {why} |")
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")
    print(lines[0])


if __name__ == "__main__":
    main()
