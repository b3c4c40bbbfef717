"""The figures of paths: numbers where they belong, one scale for what is compared, words that fit the numbers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from flowprune.errors import ArtifactError
from flowprune.reporting import write_report
from flowprune.reporting.flow_comparison import Flow, verdict
from flowprune.reporting.flow_figures import chords_figure, paths_figure, run_paths
from flowprune.reporting.flow_page import flow_html
from flowprune.reporting.flow_record import FlowRecord
from flowprune.reporting.results import StageRow, checked_results

HOSTILE = "</script><script>alert(1)</script>"


def stage(factor: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A right angle of 3 and 4, seen by two classes."""
    return {
        "points": ["stem", "a", "b"],
        "carried": False,
        "shape": [2, 4, 4],
        "images": 8,
        "scale": 2.0,
        "steps": [3 * factor, 4 * factor],
        "length": 7 * factor,
        "net": 5 * factor,
        "straightness": 5 / 7,
        "along": [0, 1.8 * factor, 5 * factor],
        "aside": [0, 2.4 * factor, 0],
        "labels": [0, 3],
        "counts": [4, 4],
        "coordinates": [[[-factor, 0], [0.0, 0.5], [factor, 0]], [[-factor, 1], [0.0, 1.5], [factor, 1]]],
        "explained": [0.75, 0.2],
        "visible": 0.9,
        **changes,
    }


def row(factor: float = 1.0, **changes: Any) -> StageRow:
    return StageRow.model_validate(stage(factor, **changes))


def totals(**changes: float | None) -> dict[str, float | None]:
    whole = {"gradient": 2.0, "relative_gradient": 1.0, "curvature": 2.0, "relative_curvature": 1.0, "angle": 1.0}
    return {**whole, "straightness": 0.5, "silent": 0.0, **changes}


def test_classes_are_drawn_at_their_coordinates_on_one_scale():
    figure = paths_figure({"plain": [row()], "ffr": [row(0.5)]})
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("class 0", [-1, 0, 1], [0, 0.5, 0]),
        ("class 3", [-1, 0, 1], [1, 1.5, 1]),
        ("class 0", [-0.5, 0, 0.5], [0, 0.5, 0]),
        ("class 3", [-0.5, 0, 0.5], [1, 1.5, 1]),
    ]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    axes = figure.to_dict()["layout"]
    ranges = {tuple(axes[name]["range"]) for name in axes if name.startswith(("xaxis", "yaxis"))}
    assert len(ranges) == 1 and ranges.pop()[1] > 1.5
    assert [axes[name]["scaleanchor"] for name in ("yaxis", "yaxis2")] == ["x", "x2"]
    said = [annotation["text"] for annotation in axes["annotations"]]
    assert all("95 % of variance, 90 % of length" in text for text in said) and "<b>ffr</b>" in said[1]


def test_a_mirror_image_is_mirrored_back():
    turned = row(coordinates=[[[-x, -y] for x, y in path] for path in stage()["coordinates"]])
    figure = paths_figure({"plain": [row()], "ffr": [turned]})
    assert list(figure.data[0].x) == list(figure.data[2].x) and list(figure.data[1].y) == list(figure.data[3].y)


def test_networks_with_different_stages_stand_side_by_side():
    other = row(points=["stem", "a"], steps=[3], along=[0, 3], aside=[0, 0], coordinates=[[[0, 0], [1, 1]]] * 2)
    figure = paths_figure({"deep": [row(), row()], "flat": [other]})
    assert len(figure.data) == 6
    chords = chords_figure({"deep": [row(), row()], "flat": [other]}, {"deep": "#111111", "flat": "#222222"})
    assert chords is not None and len(chords.data) == 3


def test_the_chord_is_in_units_of_the_features_and_absent_for_single_steps():
    figure = chords_figure({"plain": [row()]}, {"plain": "#111111"})
    assert figure is not None
    (trace,) = figure.data
    assert list(trace.x) == [0, 0.9, 2.5] and list(trace.y) == [0, 1.2, 0]
    short = row(points=["stem", "a"], steps=[3], along=[0, 3], aside=[0, 0], coordinates=[[[0, 0], [1, 1]]] * 2)
    assert chords_figure({"plain": [short]}, {"plain": "#111111"}) is None


def test_the_sentence_says_what_the_numbers_say():
    first = Flow("plain", totals(), [row(), row()])
    shorter = Flow("ffr", totals(gradient=0.2, relative_gradient=0.7, angle=0.8), [row(0.5), row(2)])
    said = verdict(first, shorter)
    assert said.startswith("ffr beside plain: shorter (|d| / |Y| 0.7 against 1; shorter in 1 of 2 stages)")
    assert "turning less (angle 0.8 against 1)" in said and "alike in straightness" in said
    assert "|d| itself is 0.10 times, so the features shrank as well" in said
    worse = verdict(first, Flow("ffr", totals(relative_gradient=1.5, straightness=0.4, relative_curvature=2.0), []))
    assert "longer (|d| / |Y| 1.5 against 1)" in worse and "more curved" in worse and "more winding" in worse
    # Everything got smaller alike: that is no shorter path.
    shrunk = verdict(first, Flow("small", totals(gradient=0.2, curvature=0.2), []))
    assert "alike in |d| / |Y|" in shrunk and "shorter (" not in shrunk and "the features shrank" in shrunk
    assert verdict(first, Flow("none", {}, [])) == "none beside plain: nothing can be compared"


def results(**profile: Any) -> dict[str, Any]:
    points = [{"name": "stem"}, {"name": "a", "gradient": 0.5}]
    one = {"method": "plain", "stage": "dense", "top1": 90.0, "params": 1, "macs": 1, "sparsity": 0.0, "filters": 1}
    return {
        "environment": {},
        "recipe": {},
        "seed": 0,
        "rows": [{"network": "net", "dead_filters": 0, **one}],
        "flow_profiles": {"net/plain": {"points": points, **profile}, "net/ffr": {"points": points, **profile}},
    }


def test_a_run_shows_its_paths_and_an_older_one_is_shown_without(tmp_path):
    found = run_paths(checked_results(results(stages=[stage()], totals=totals())))
    assert [(section, caption.split(".")[0]) for section, caption, _ in found] == [("paths", "net"), ("chords", "net")]
    assert "ffr beside plain: alike in |d| / |Y|" in found[0][1]
    write_report(results(stages=[stage()], totals=totals()), tmp_path / "report.html")
    assert 'id="paths"' in (tmp_path / "report.html").read_text()
    # What an earlier version wrote: a profile without stages, or bare points.
    older = results()
    older["flow_profiles"]["net/ffr"] = older["flow_profiles"]["net/ffr"]["points"]
    assert run_paths(checked_results(older)) == []
    write_report(older, tmp_path / "older.html")
    assert 'id="paths"' not in (tmp_path / "older.html").read_text()
    # No stage, and stages without totals, as a model without a path and a careless writer have them.
    assert run_paths(checked_results(results(stages=[]))) == []
    assert run_paths(checked_results(results(stages=[stage()])))[0][1] == "net"


def test_a_stage_that_does_not_fit_itself_is_named():
    broken = stage(along=[0.0, 1.0])
    with pytest.raises(ArtifactError, match=r"flow_stages\.net/plain\.0: .*different lengths"):
        checked_results(results(stages=[broken]))


def record(**changes: Any) -> FlowRecord:
    content = {
        "images": 8,
        "points": [
            {"name": "stem", "shape": [2, 4, 4], "magnitude": 1.0},
            {"name": "a", "gradient": 0.5, "angle": 0.5},
        ],
        "stages": [stage()],
        "totals": totals(),
        "layers": [{"layer": "conv", "filters": 8, "dead": 2}, {"layer": "head", "filters": 4, "dead": 0}],
        **changes,
    }
    return FlowRecord.model_validate(copy.deepcopy(content))


def test_the_page_of_a_hostile_name_is_only_text():
    layers = [{"layer": HOSTILE, "filters": 2, "dead": 1}]
    points = [{"name": HOSTILE}, {"name": "a", "gradient": 0.1}]
    page = flow_html(
        {HOSTILE: record(layers=layers, points=points, left_out={HOSTILE: HOSTILE})}, HOSTILE, {"cpu": HOSTILE}
    )
    assert "<script>alert" not in page and page.count("plotly.js (") == 1
    for chunk in page.split('data-figure="')[1:]:
        json.loads(chunk[chunk.index(">") + 1 : chunk.index("</script>")])


def test_one_network_alone_has_a_page_without_a_comparison():
    page = flow_html({"net": record()}, "Measured.", {})
    assert "net beside" not in page and "beside net" not in page
    assert "stem … b" in page and "0.7143" in page and "28.6°" in page
