"""Reading results, showing them as tables and as one page that is complete in itself."""

from __future__ import annotations

import copy
import html.parser
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from flowprune.errors import ArtifactError, OutputError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.models import create
from flowprune.reporting import environment, load_results, markdown_table, results_table, write_report
from flowprune.reporting.figures import figures
from flowprune.reporting.results import checked_results
from flowprune.reporting.table import compact

HOSTILE = "</script><script>alert('[bold]x|y[/bold]')</script>"


def row(method="plain", stage="dense", budget=None, network="resnet20", **changes: Any) -> dict[str, Any]:
    whole = {
        "network": network,
        "method": method,
        "stage": stage,
        "budget": budget,
        "top1": 91.234,
        "params": 269722,
        "macs": 40551040,
        "sparsity": 0.125,
        "filters": 688,
        "dead_filters": 42,
        "filters_removed": None,
    }
    return {**whole, **changes}


def results() -> dict[str, Any]:
    half = {"params": 134861, "macs": 20275520, "filters": 500, "dead_filters": 7, "filters_removed": 188}
    epochs = [
        {"epoch": n, "task_loss": 1 / n, "test_accuracy": 80 + n if n % 2 else None, "lr": 0.1} for n in (1, 2, 3)
    ]
    points = [
        {"name": "stem", "gradient": None, "relative": None, "curvature": None, "silent": None},
        {"name": "layer1.0", "gradient": 0.25, "relative": 0.5, "curvature": 0.125, "silent": [3, 5]},
    ]
    return {
        "environment": {"python": "3.12.1", "packages": {"torch": "2.15.0"}, "gpus": [], "cuda": None, "cores": 2},
        "recipe": {"data": {"name": "digits"}, "training": {"epochs": 3, "lr": 0.1}},
        "seed": 7,
        "rows": [
            row(),
            row(stage="pruned", budget="macs=0.5", top1=60.0, **half),
            row(stage="finetuned", budget="macs=0.5", top1=90.5, **half),
            row(method="ffr", top1=90.876),
            row(network="plain", dead_filters=0),
        ],
        "histories": {"resnet20/plain/dense": epochs, "resnet20/plain/finetuned/macs=0.5": epochs},
        "flow_profiles": {"resnet20/plain": points, "resnet20/ffr": {"images": 10, "points": points}},
        "channels": {"resnet20/plain/macs=0.5": [{"layer": "conv1", "dense": 16, "kept": 9}]},
    }


def shown(table: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140).print(table)
    return stream.getvalue()


def test_the_terminal_table_shows_every_row_once():
    text = shown(results_table(results()))
    lines = [line.split() for line in text.splitlines() if re.search(r"\b(dense|pruned|finetuned)\b", line)]
    assert len(lines) == 5
    assert lines[0] == ["resnet20", "plain", "dense", "-", "91.23", "269.7k", "40.55M", "12.5", "42", "688", "-"]
    assert lines[1][3:] == ["macs=0.5", "60.00", "134.9k", "(50%)", "20.28M", "(50%)", "12.5", "7", "500", "188"]
    assert "seed 7" in text


def test_the_table_fits_the_width_of_a_usual_terminal():
    budget = "threshold=0.01"
    rows = [row(), row(method="ffr", stage="finetuned", budget=budget, filters_removed=88)]
    stream = io.StringIO()
    Console(file=stream, width=120).print(results_table({**results(), "rows": rows}))
    assert budget in stream.getvalue() and "…" not in stream.getvalue()


def test_the_markdown_table_has_a_line_for_each_row_and_escapes_its_separator():
    broken = results()
    broken["rows"][4]["network"] = "a|b<i>"
    lines = markdown_table(broken).splitlines()
    assert len(lines) == 7
    assert lines[2] == "| resnet20 | plain | dense | - | 91.23 | 269.7k | 40.55M | 12.5 | 42 | 688 | - |"
    assert lines[6].startswith("| a\\|b&lt;i> | plain |")
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (853_018, "853.0k"), (1_727_962, "1.728M"), (125_485_696, "125.5M"), (4_089_184_256, "4.089G")],
)
def test_large_numbers_are_short(number, text):
    assert compact(number) == text


class _Page(html.parser.HTMLParser):
    """What a browser would find: tags, the texts of scripts, visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.cdata_elem == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.text += data


def page_of(content: Any, tmp_path: Any) -> _Page:
    write_report(content, tmp_path / "report.html")
    return _Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_holds_everything_and_loads_nothing(tmp_path):
    page = page_of(results(), tmp_path)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed")
        assert not attributes.get("src")
        assert attributes.get("href", "#").startswith("#")
    drawn = {
        attributes["data-figure"]: json.loads(text) for attributes, text in page.scripts if "data-figure" in attributes
    }
    assert len(drawn) == 4  # accuracy of the network that was cut, flow, channels, curves
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert set(drawn) <= ids
    targets = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    assert targets <= ids and len(targets) == 7
    assert sum("plotly.js (basic" in text for _, text in page.scripts) == 1
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    for expected in ("90.88", "20.28M (50%)", "epochs: 3", "2.15.0", "seed 7", "1.2", "flowprune"):
        assert expected in page.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_first_screen_says_what_was_gained(tmp_path):
    page_of(results(), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<h1>flowprune: resnet20, plain on digits</h1>" in text
    assert (
        "resnet20 became 2.0 times smaller (270 k to 135 k parameters) and needs 2.0 times less arithmetic for an image "
        "(40.6 M to 20.3 M multiply-accumulates). It names 91.2 % of the test images rightly before the cut, 60.0 % right "
        "after it and 90.5 % after training on."
    ) in text
    assert text.index("became 2.0 times smaller") < text.index('id="results"')
    words = ("Multiply-accumulates (MACs) are ", "Top-1 is ", "A dead filter is ", "ffr is ")
    assert all(text.index(word) < text.index('id="results"') for word in words)
    assert re.search(r"<details><summary>[^<]*</summary><pre>.*epochs: 3", text, re.DOTALL)


def test_nothing_is_drawn_of_a_single_dot():
    content = results()
    one = [{"epoch": 1, "task_loss": 1.0, "test_accuracy": 80.0}]
    content["histories"] = {"resnet20/plain/dense": one, "plain/plain/dense": one}
    content["flow_profiles"] = {"resnet20/plain": [{"name": "stem", "gradient": 1.0}]}
    content["rows"] = content["rows"][:1]
    assert [section for section, _, _ in figures(checked_results(content))] == ["channels"]
    several = [{"epoch": n, "task_loss": 1 / n, "test_accuracy": 80.0 if n == 3 else None} for n in (1, 2, 3)]
    content["histories"] = {"resnet20/plain/dense": several}
    (curves,) = (figure for section, _, figure in figures(checked_results(content)) if section == "curves")
    assert [len(trace.x) for trace in curves.data] == [3]  # the loss; an accuracy of one epoch is no curve


def test_figures_show_the_numbers_of_the_results():
    found = {(section, caption): figure for section, caption, figure in figures(checked_results(results()))}
    flow = found["flow", "resnet20"]
    assert {trace.name for trace in flow.data} == {"plain", "ffr"}
    assert [list(trace.y) for trace in flow.data if trace.name == "ffr"] == [
        [None, 0.25],
        [None, 0.5],
        [None, 0.125],
        [None, 2],
    ]
    bars = {trace.name: list(trace.y) for trace in found["channels", "resnet20 · macs=0.5"].data}
    assert bars == {"dense": [16], "plain": [9]}
    curves = [(list(trace.x), list(trace.y)) for trace in found["curves", "resnet20"].data]
    assert curves == [([1, 2, 3], [1, 1 / 2, 1 / 3]), ([1, 3], [81, 83])] * 2
    (path,) = [trace for trace in found["accuracy", "resnet20"].data if trace.name == "plain · macs=0.5"]
    assert list(path.text) == ["dense", "pruned", "finetuned"] and list(path.y) == [91.234, 60.0, 90.5]
    for figure in found.values():
        axes = figure.to_dict()["layout"]
        assert any(axes[name].get("title", {}).get("text") for name in axes if name.startswith("xaxis"))
        assert any(axes[name].get("title", {}).get("text") for name in axes if name.startswith("yaxis"))


def test_a_run_without_histories_profiles_and_channels_has_a_page(tmp_path):
    bare = {key: results()[key] for key in ("environment", "recipe", "seed", "rows")}
    assert "91.23" in page_of(bare, tmp_path).text


def test_names_cannot_become_markup(tmp_path):
    clean = page_of(results(), tmp_path)
    hostile = results()
    for entry in hostile["rows"]:
        entry["network"] = HOSTILE
        entry["budget"] = HOSTILE if entry["budget"] else None
    hostile["recipe"]["note"] = hostile["environment"]["cpu"] = HOSTILE
    hostile["channels"] = {f"net/plain/{HOSTILE.replace('/', '')}": [{"layer": HOSTILE, "dense": 2, "kept": 1}]}
    hostile["flow_profiles"] = {"net/ffr": [{"name": HOSTILE, "gradient": 1.0}]}
    page = page_of(hostile, tmp_path)
    assert not any(
        "alert" in text
        for attributes, text in page.scripts
        if attributes.get("type") != "application/json" and "plotly.js (" not in text
    )
    assert all(text.strip() for attributes, text in page.scripts)
    assert HOSTILE in page.text  # as text, in full
    figures_in = [json.loads(text) for attributes, text in page.scripts if "data-figure" in attributes]
    assert len(figures_in) + 2 == len(page.scripts) and len(clean.scripts) > 2
    assert not any("<script" in json.dumps(figure) for figure in figures_in)
    hostile["rows"][0]["network"] = "[bold]x[/bold]"
    assert "[bold]x[/bold]" in shown(results_table(hostile))


def test_a_real_flow_profile_goes_straight_into_the_results():
    with FeatureFlow(create("resnet20")) as flow:
        profile = flow.profile([torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))])
    content = {**results(), "flow_profiles": {"resnet20/ffr": json.loads(json.dumps(profile.as_dict()))}}
    points = checked_results(content).flow_profiles["resnet20/ffr"]
    assert [point.name for point in points] == [point.name for point in profile.points]
    assert [point.gradient for point in points] == [point.gradient for point in profile.points]
    assert sum(point.silent or 0 for point in points) == profile.silent


def test_results_are_read_from_the_file_or_its_folder(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({**results(), "later_key": 1}))
    for path in (tmp_path, tmp_path / "results.json", str(tmp_path)):
        loaded = load_results(path)
        assert (loaded.seed, len(loaded.rows), loaded.rows[1].filters_removed) == (7, 5, 188)
    assert json.loads(loaded.model_dump_json())["later_key"] == 1


def _without(key: str) -> dict[str, Any]:
    content = results()
    del content[key]
    return content


def _wrong_row() -> dict[str, Any]:
    content = copy.deepcopy(results())
    content["rows"][2]["top1"] = "good"
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ('{"rows": [', "is no JSON file"),
        ("[1, 2]", "the top level"),
        (json.dumps(_without("rows")), "rows: field required"),
        (json.dumps({**results(), "rows": []}), "rows"),
        (json.dumps(_wrong_row()), r"rows\.2\.top1"),
    ],
)
def test_what_is_no_results_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=message) as raised:
        load_results(path)
    assert "\n" not in str(raised.value) and "results.json" in str(raised.value)


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(results(), tmp_path / "missing" / "report.html")


def test_a_page_is_replaced(tmp_path):
    (tmp_path / "report.html").write_text("the page of another run")
    page = page_of(results(), tmp_path)
    assert "the page of another run" not in page.text and "91.23" in page.text


def test_the_environment_names_versions_and_hardware_and_nothing_private():
    found = environment()
    assert (
        found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"] == torch.__version__
    )
    assert found["python"].count(".") == 2 and found["cpu"] and found["cores"] >= 1
    assert found["cores"] <= (os.cpu_count() or 1)
    text = json.dumps(found)
    assert str(Path.cwd()) not in text and str(Path.home()) not in text
