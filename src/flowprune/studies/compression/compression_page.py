"""The page of a compression: what was gained, how it was chosen, what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowprune.reporting.gains import smaller
from flowprune.reporting.table import compact
from flowprune.reporting.template import PageFigures, PageTable, summary_html
from flowprune.studies.sensitivity import Sensitivity
from flowprune.studies.sensitivity.sensitivity_page import heat_map

BUSY = 1.5
"""Where the middle half of the turns is wider than this factor, something else was running."""


def gained(content: Mapping[str, Any]) -> str:
    """What a compression came to, in sentences for somebody who knows none of its words."""
    test, cost = content["test"], content["cost"]
    drop = test["drop"]
    return (
        f"It is {smaller(cost['params'], cost['macs'])}. "
        f"Of {drop['images']} test images it names {test['after']:.2f} % rightly, {test['before']:.2f} % before: "
        f"{drop['points']:.2f} points lost, at most {drop['at_most']:.2f} with 95 % confidence."
    )


def faster(content: Mapping[str, Any]) -> str:
    """How long both models take for an image, and whether the machine was quiet enough to tell."""
    before, after = content["speed"]
    wide = max(one["quartiles"][1] / max(one["quartiles"][0], 1e-9) for one in (before, after))
    busy = " The machine was busy meanwhile: time both again with `flowprune bench`." if wide > BUSY else ""
    return (
        f"An image takes {after['milliseconds']:.3g} ms, {before['milliseconds']:.3g} ms before: {after['speed_up']:.2f} times as "
        f"fast, in {after['backend']} with {after['threads']} thread{'' if after['threads'] == 1 else 's'}.{busy}"
    )


def compression_html(content: Mapping[str, Any], name: str, data: str) -> str:
    """The page as a string.

    Args:
        content: of ``compress.json``, after the hand-over.
        name: of the model.
        data: of the data set.
    """
    tables = [_ways(content), _trials(content)]
    scan = content["sensitivity"]
    figures = []
    if scan is not None and scan["rows"]:
        note = "Accuracy on the validation images where this share of one coupled group leaves alone."
        figures = [
            PageFigures("map", "What each group costs", note, [("accuracy", heat_map(Sensitivity.from_dict(scan)))])
        ]
    return summary_html(
        f"{name} on {data}, compressed",
        f"{gained(content)} {faster(content)}",
        tables=[table for table in tables if table.rows],
        figures=figures,
        details=[_layers(content)],
        recipe=content["asked"],
        environment=content["environment"],
    )


def _ways(content: Mapping[str, Any]) -> PageTable:
    ways = content.get("ways", {})
    way = content["way"]
    return PageTable(
        "ways",
        "Ways to cut",
        "Each was cut to the goal (to half of the MACs where a drop is the goal) and refitted without any training; the best on "
        f"the validation images was taken: {way['criterion']}, shared out by {way['allocation']}, rounds: {way['rounds']}.",
        ("criterion", "shared out by", "rounds", "validation"),
        [(one["criterion"], one["allocation"], str(one["rounds"]), f"{one['accuracy']:.2f}") for one in ways.values()],
        text_columns=2,
    )


def _trials(content: Mapping[str, Any]) -> PageTable:
    before = content["before"]["accuracy"]
    rows = []
    for name, one in content["trials"].items():
        drop = one["drop"]
        lost = ("-", "-") if drop is None else (f"{drop['points']:.2f}", f"{drop['at_most']:.2f}")
        rows.append((name, compact(one["macs"]), f"{one['validation']['accuracy']:.2f}", *lost))
    return PageTable(
        "trials",
        "Cut, refitted and trained",
        f"On the validation images, where the dense model has {before:.2f}. Lost: the difference on the same images, and the "
        "most that it may be with 95 % confidence.",
        ("budget", "MACs", "validation", "lost", "at most"),
        rows,
    )


def _layers(content: Mapping[str, Any]) -> PageTable:
    return PageTable(
        "layers",
        "Layer by layer",
        "Output channels before and after.",
        ("layer", "before", "after"),
        [(one["layer"], str(one["dense"]), str(one["kept"])) for one in content["layers"]],
    )
