"""The shape of an image need not be typed for a network whose library says it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowprune.cli import main
from flowprune.commands.usual_input import usual_input
from flowprune.models import create


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("resnet8", {}, (3, 32, 32)),
        ("vgg6", {"in_channels": 1}, (1, 32, 32)),
        ("torchvision:squeezenet1_1", {}, (3, 224, 224)),
        ("torchvision:vit_b_32", {"image_size": 64}, (3, 64, 64)),
    ],
)
def test_the_shape_is_one_that_the_network_takes(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    model = create(name, **options).eval()
    assert usual_input(model) == shape
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape[0] == 2


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("timm:resnet10t", {}, (3, 176, 176)),
        ("timm:vit_tiny_patch16_224", {"img_size": 64, "in_chans": 1}, (1, 64, 64)),
    ],
)
def test_timm_says_it_too(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    model = create(name, **options).eval()
    assert usual_input(model) == shape
    with torch.no_grad():
        model(torch.zeros(1, *shape))


@pytest.mark.parametrize("model", [torch.nn.Conv2d(3, 4, 3), "torchvision:fcn_resnet50"])
def test_what_nobody_says_is_not_guessed(model: Any) -> None:
    assert usual_input(create(model) if isinstance(model, str) else model) is None


def test_the_command_needs_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "resnet8"]) == 0
    said = capsys.readouterr().out
    assert main(["explain", "resnet8", "--input", "3x32x32"]) == 0
    assert said == capsys.readouterr().out != ""
