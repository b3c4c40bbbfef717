"""The comparison with a plain loop: what is divided by what, and on real images one short turn of every way."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset


def test_the_ratio_is_that_of_turns_to_the_fastest_plain_way() -> None:
    from loop_speed.run import FLOWPRUNE, PLAIN, fastest_plain, in_turns, ratio

    first, second, *others = PLAIN
    rates = {FLOWPRUNE: [90.0, 300.0, 110.0], first: [100.0, 100.0, 100.0], second: [1.0, 1.0, 900.0]}
    rates |= {way: [50.0, 60.0, 70.0] for way in others}
    assert fastest_plain(rates) == first and ratio(rates, FLOWPRUNE, first) == 1.1
    began: list[str] = []
    ways = {name: lambda name=name: float(began.append(name) or len(began)) for name in "abc"}
    assert in_turns(ways, 2) == {"a": [1, 6], "b": [2, 4], "c": [3, 5]}  # the second turn begins with b


def test_a_plain_loader_goes_on_after_its_last_batch() -> None:
    from loop_speed.run import endless

    loader = DataLoader(TensorDataset(torch.arange(4)), batch_size=2)
    assert [batch[0].tolist() for batch in islice(endless(loader), 3)] == [[0, 1], [2, 3], [0, 1]]


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("FLOWPRUNE_DATA"), reason="FLOWPRUNE_DATA does not point at CIFAR-10")
def test_all_ways_run_on_real_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loop_speed import run
    from loop_speed.run import BEGIN, END, FLOWPRUNE, PLAIN, main

    monkeypatch.setattr(run, "BATCH", 16)
    monkeypatch.setattr(run, "EVALUATED", 125)

    page, out = tmp_path / "page.md", tmp_path / "speed.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    main(["--only", "resnet20", "--turns", "1", "--seconds", "0.1", "--out", str(out), "--table", str(page)])
    (network,) = json.loads(out.read_text())["networks"]
    assert set(network["images_a_second"]) == {FLOWPRUNE, *PLAIN} and network["ratio"] > 0
    assert network["evaluation"]["ratio"] > 0 and network["precision"]["seconds_an_image"]["float32"] > 0
    assert "flowprune by the fastest plain way" in page.read_text()
