"""Every form of the flow's penalty is measured in whole steps beside a plain one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_a_step_with_every_form_is_timed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flow_overhead import forms, page, run

    monkeypatch.setitem(run.NETWORKS, "resnet20", (2, 16))
    forms.main(["--rounds", "1", "--only", "resnet20", "--out", str(tmp_path / "forms.json")])
    record = json.loads((tmp_path / "forms.json").read_text())
    ratios = record["networks"][0]["ratios"]
    assert list(ratios) == list(forms.FORMS) and all(len(each) == 1 and each[0] > 0 for each in ratios.values())
    lines = page.table(record).splitlines()
    assert lines[0] == "| form | resnet20 (2 x 16²) |" and len(
        [line for line in lines if line.startswith("|")]
    ) == 2 + len(ratios)
