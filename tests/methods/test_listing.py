"""What there is to choose from, by the names of the rooms of methods."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import flowprune as fp
from flowprune import methods
from flowprune.methods.presets import Preset

ROOMS = sorted(path.parent.name for path in Path(methods.__file__).parent.glob("*/registry.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_lists_what_it_builds(room: str) -> None:
    names = fp.list_methods(room)
    registry = importlib.import_module(f"flowprune.methods.{room}.registry").REGISTRY
    assert names == sorted(names) and names == list(registry)
    assert all(callable(registry[name]) or isinstance(registry[name], Preset) for name in names)


def test_the_literature_is_found() -> None:
    assert {"l1", "l2", "fpgm", "hrank", "chip", "nuclear_norm", "random"} <= set(fp.list_methods("importance"))
    assert "ffr" in fp.list_methods("regularizers")


@pytest.mark.parametrize("room", ["importances", "models", "registry", ""])
def test_an_unknown_room_is_one_line_that_names_the_known_ones(room: str) -> None:
    with pytest.raises(fp.FlowpruneError) as raised:
        fp.list_methods(room)
    said = str(raised.value)
    assert "\n" not in said and repr(room) in said and all(known in said for known in ROOMS)
