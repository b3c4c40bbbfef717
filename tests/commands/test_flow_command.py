"""``flowprune flow``: tables, a page and a file that say the same; bad input is one line."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import flowprune as fp
from flowprune.artifacts import save
from flowprune.cli import main
from flowprune.models import create
from flowprune.training import TrainingSettings, load_data, train

NOTES = {"input": [1, 16, 16], "data": {"name": "digits", "normalize": "digits", "size": 16}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.fp and ffr.fp: one network from the same weights, trained without and with a strong penalty."""
    folder = tmp_path_factory.mktemp("trained")
    data = load_data("digits", size=16, normalize="digits", subset=600)
    settings = TrainingSettings(epochs=3, batch_size=50, lr=0.1, augmentation=None, seed=0)
    for name, strength in (("plain", None), ("ffr", "100%")):
        torch.manual_seed(0)
        model = create("resnet14", in_channels=1, width=4)
        flow = None if strength is None else fp.FeatureFlow(model, strength, strength)
        train(model, data, settings, regularizer=flow, progress=False)
        if flow is not None:
            flow.close()
        save(model, folder / f"{name}.fp", notes=NOTES)
    return folder


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[Any] = []
        self.figures: dict[str, dict[str, Any]] = {}
        self._figure: str | None = None
        self._script = False
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        if tag in ("link", "iframe", "img", "object", "embed") or given.get("src"):
            self.loaded.append((tag, given))
        self._figure = given.get("data-figure") if tag == "script" else None
        self._script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._figure, self._script = None, False

    def handle_data(self, data: str) -> None:
        if self._figure:
            self.figures[self._figure] = json.loads(data)
        elif not self._script:
            self.text += data


def test_two_models_side_by_side(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, ffr = trained / "plain.fp", trained / "ffr.fp"
    out, numbers = tmp_path / "flow.html", tmp_path / "numbers.json"
    arguments = ["flow", str(plain), "--against", str(ffr), "--images", "150", "--split", "test", "--seed", "3"]
    assert main([*arguments, "--out", str(out), "--json", str(numbers)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(numbers.read_text())
    assert list(content["models"]) == ["plain", "ffr"] and content["images"] == 150 and content["data"] == "digits"

    # What the file holds is what Python measures on the same images.
    data = load_data("digits", size=16, normalize="digits")
    drawn = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(3))[:150].sort().values
    x, labels = next(iter(data.batches("test", batch_size=len(data.test))))
    pairs = list(zip(x[drawn].split(64), labels[drawn].split(64), strict=True))
    for name, path in (("plain", plain), ("ffr", ffr)):
        measured = fp.flow_paths(fp.load(path), pairs)
        found = content["models"][name]
        wanted = json.loads(json.dumps(measured.as_dict()))
        assert {key: found[key] for key in wanted} == wanted
        assert found["stages"][0]["labels"] == content["classes"] == list(range(10))
        for row in found["points"]:
            assert row["name"] in printed and format(row["magnitude"], ".4g") in printed
        for row in found["layers"]:
            assert row["layer"] in printed
        assert sum(row["dead"] for row in found["layers"]) == found["dead_filters"]
        assert f"{found['dead_filters']} of {found['filters']}" in printed

    # The penalty is on the length of the path; it must have become shorter, and the sentence must say so.
    before, after = (content["models"][name]["totals"] for name in ("plain", "ffr"))
    assert after["gradient"] < before["gradient"] and after["curvature"] < before["curvature"]
    (sentence,) = content["comparison"]
    assert sentence in printed and sentence.startswith("ffr beside plain: ")
    shorter = after["relative_gradient"] < before["relative_gradient"]
    assert ("longer (|d|" if not shorter else "shorter (|d|") in sentence

    page = _Page(out.read_text(encoding="utf-8"))
    assert not page.loaded and sentence in page.text and len(page.figures) == 4
    paths = page.figures["figure-0"]
    drawn_paths = [trace for trace in paths["data"] if trace["name"] == "class 7"]
    assert len(drawn_paths) == 6  # three stages, two networks
    assert drawn_paths[0]["x"] == [x for x, _ in content["models"]["plain"]["stages"][0]["coordinates"][7]]


def test_the_same_seed_gives_the_same_numbers_and_picture(trained: Path, tmp_path: Path) -> None:
    written = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        out = tmp_path / folder / "flow.html"
        assert main(["flow", str(trained / "plain.fp"), "--images", "64", "--classes", "4", "--out", str(out)]) == 0
        written.append((out.read_text(), out.with_suffix(".json").read_text()))
    assert written[0] == written[1]
    stages = json.loads(written[0][1])["models"]["plain"]["stages"]
    assert [len(stage["coordinates"]) for stage in stages] == [4, 4, 4]
    assert all(sum(stage["counts"]) < 64 for stage in stages)


def test_a_name_has_random_weights_and_the_page_says_so(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flow.html"
    options = ["--model-option", "in_channels=1", "--model-option", "width=4", "--images", "40"]
    assert main(["flow", "vgg6", "--against", str(trained / "ffr.fp"), *options, "--out", str(out)]) == 0
    assert "Random weights: vgg6." in capsys.readouterr().out and "Random weights: vgg6." in out.read_text()
    models = json.loads(out.with_suffix(".json").read_text())["models"]
    assert [found["random_weights"] for found in models.values()] == [True, False]
    assert len(models["vgg6"]["points"]) == 5 and len(models["ffr"]["points"]) == 7


def test_points_can_be_named_and_shapes_projected(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow.html"
    points = "layer1.0,layer1.1,layer2.0"
    assert main(["flow", str(trained / "plain.fp"), "--points", points, "--across", "skip", "--out", str(out)]) == 0
    found = json.loads(out.with_suffix(".json").read_text())["models"]["plain"]
    assert [stage["points"] for stage in found["stages"]] == [["layer1.0", "layer1.1"]]
    assert list(found["left_out"]) == ["layer1.1 -> layer2.0"]


def test_a_corrupt_artifact_is_refused(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    whole = (trained / "plain.fp").read_bytes()
    (tmp_path / "bad.fp").write_bytes(whole[:-100])
    assert "bad.fp" in refused("flow", tmp_path / "bad.fp")
    assert "bad.fp" in refused("flow", trained / "plain.fp", "--against", tmp_path / "bad.fp")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--images", "5"], "5 images cannot show 10 classes; use more images, or --classes 5"),
        (["--split", "both"], "'train', 'test'"),
        (["--across", "leap"], "'leap' is not one of"),
        (["--data", "digit"], "did you mean 'digits'?"),
        (["--points", "layer1.0,layer9"], "unknown module 'layer9'"),
        (["--points", "layer1.0"], "two points"),
        (["--points", "layer1.0,linear"], "different number of dimensions"),
        (["--model-option", "width=4"], "is for a model given by name"),
        (["--weights", "w.safetensors"], "w.safetensors"),
        (["--against", "resnt8"], "did you mean"),
        (["--against", "SAME"], "a second time"),
        (["--record", "OUT"], "the same file"),
    ],
)
def test_bad_input_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    out = str(tmp_path / "flow.html")
    model = str(trained / "plain.fp")
    more = [{"OUT": out, "SAME": model}.get(word, word) for word in more]
    assert main(["flow", model, "--out", out, *more]) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and not list(tmp_path.iterdir())


def test_what_is_there_is_kept(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "flow.html"
    out.with_suffix(".json").write_text("mine")
    assert main(["flow", str(trained / "plain.fp"), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["flow.json"] and out.with_suffix(
        ".json"
    ).read_text() == "mine"


def test_an_unknown_data_set_of_a_name_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flow", "resnet8", "--out", str(tmp_path / "flow.html")]) == 2
    assert "name one with --data" in capsys.readouterr().err


def test_a_model_that_cannot_be_traced_is_shown_at_named_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hidden.py").write_text(
        "import torch\n"
        "from torch.utils import _python_dispatch as dispatch\n"
        "class Kernel(torch.nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        if dispatch._get_current_dispatch_mode() is not None:\n"
        "            raise RuntimeError('a kernel that nothing can look into')\n"
        "        return super().forward(x)\n"
        "def build(**options):\n"
        "    kernels = (Kernel(n, 3, 3, padding=1) for n in (1, 3, 3))\n"
        "    return torch.nn.Sequential(*kernels, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "flow.html"
    arguments = ["flow", "hidden:build", "--data", "digits", "--images", "50", "--out", str(out)]
    assert main(arguments) == 2 and "nothing can look into" in capsys.readouterr().err and not out.exists()
    assert main([*arguments, "--points", "0,1,2"]) == 0
    found = json.loads(out.with_suffix(".json").read_text())["models"]["hidden:build"]
    assert [stage["points"] for stage in found["stages"]] == [["0", "1", "2"]]
    assert found["layers"] == [] and found["dead_filters"] is None
    assert 'id="dead"' not in out.read_text() and 'id="paths"' in out.read_text()
