"""The speed study on a small network: what it leaves, and the page made of it."""

from __future__ import annotations

import argparse

import pytest


def test_a_small_study_and_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import page, run

    asked = argparse.Namespace(backends=["pytorch"], batch_sizes=[1, 2], threads=[1], turns=1)
    study = run.studied("resnet8", asked)
    rows = [(row["name"], row["batch"]) for row in study["rows"]]
    assert rows == [(cut, batch) for batch in (1, 2) for cut in ("dense", *page.CUTS)] and not study["missing"]
    assert all(row["macs_ratio"] >= 2 for row in study["rows"] if row["name"] != "dense")
    content = {"share": 0.5, "turns": 1, "environment": {"cpu": "a processor"}, "networks": {"resnet8": study}}
    made = page.page(content)
    assert made.count("| resnet8 |") == 2 and "## pytorch, batches of 2, 1 thread\n" in made
    share = 1 / study["rows"][1]["speed_up"]
    assert f"| {share:.2f} |" in made
