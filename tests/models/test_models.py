from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from thoroughness import times
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flowprune import models
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import ModelError, UnknownNameError

DATA = Path(os.environ["FLOWPRUNE_DATA"]) if os.environ.get("FLOWPRUNE_DATA") else None


def macs(model: nn.Module, size: int, channels: int = 3) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, channels, size, size))
    return counter.get_total_flops() // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameter_count", "mac_count"),
    [
        ("resnet20", 269_722, 40_551_040),
        ("resnet32", 464_154, None),
        ("resnet44", 658_586, None),
        ("resnet56", 853_018, 125_485_696),
        ("resnet110", 1_727_962, 252_887_680),
        ("vgg16", 14_987_722, 313_463_808),
    ],
)
def test_counts_are_the_literatures(name: str, parameter_count: int, mac_count: int | None) -> None:
    model = models.create(name)
    if mac_count is not None:
        assert macs(model, 32) == mac_count
    assert parameters(model) == parameter_count


def test_vgg19_has_sixteen_bias_free_convolutions() -> None:
    convolutions = [module for module in models.create("vgg19").modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 16
    assert all(convolution.bias is None for convolution in convolutions)


def test_option_a_shortcut_moves_channels_by_a_quarter_and_has_no_parameters() -> None:
    block = models.create("resnet20").layer2[0]  # type: ignore[index]
    x = torch.randn(2, 16, 8, 8)
    y = block.shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().sum() == 0 and y[:, 24:].abs().sum() == 0
    assert (block.shortcut.channels_before, block.shortcut.channels_after) == (8, 8)
    assert not list(block.shortcut.parameters())


@pytest.mark.parametrize("name", ["resnet8", "resnet14", "vgg6"])
def test_small_siblings_take_digits(name: str) -> None:
    model = models.create(name, in_channels=1, width=4, classes=7)
    assert model(torch.randn(3, 1, 16, 16)).shape == (3, 7)
    assert parameters(model) < 20_000


def test_initialisation_keeps_the_variance_he_asks_for() -> None:
    torch.manual_seed(0)
    model = models.create("vgg16")
    weight = model.features.conv4_2.weight  # type: ignore[union-attr]
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_lineage_rebuilds_the_model() -> None:
    lineage = lineage_of(models.create("resnet8", classes=3, in_channels=1, width=5))
    assert lineage.builder == "resnet8"
    again = models.create(lineage.builder, **lineage.options)
    assert again.linear.weight.shape == (3, 20)  # type: ignore[union-attr]
    assert again.conv1.weight.shape == (5, 1, 3, 3)  # type: ignore[union-attr]


def test_foreign_builders() -> None:
    vision = models.create("torchvision:squeezenet1_1", classes=5)
    assert vision.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert lineage_of(vision).options == {"classes": 5}
    timm = pytest.importorskip("timm")
    assert timm.is_model("test_vit")
    assert models.create("timm:test_vit", classes=4).eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 4)
    assert isinstance(models.create("torch.nn:Linear", in_features=3, out_features=2), nn.Linear)
    assert models.runs_own_code("torch.nn:Linear") and not models.runs_own_code("timm:test_vit")


def test_segmentation_model_downloads_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    models.create("torchvision:lraspp_mobilenet_v3_large")


def test_users_own_function_receives_num_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garage.py").write_text(
        "from torch import nn\ndef build(num_classes=2): return nn.Linear(4, num_classes)\ndef bare(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert models.create("garage:build", classes=9).out_features == 9
    with pytest.raises(ModelError, match="returned int"):
        models.create("garage:bare")
    with pytest.raises(UnknownNameError, match="did you mean 'build'"):
        models.create("garage:biuld")
    with pytest.raises(ModelError, match="takes neither classes nor num_classes"):
        models.create("garage:bare", classes=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet65", "did you mean 'resnet56'"),
        ("torchvision:resnet_50", "did you mean 'resnet50'"),
        ("timm:resnet_50", "unknown timm model"),
        ("timm:hf-hub:someone/model", "unknown timm model"),
        ("no_such_module:build", "cannot import 'no_such_module'"),
        (":build", "no module name"),
    ],
)
def test_unknown_names_are_one_line(name: str, message: str) -> None:
    with pytest.raises((UnknownNameError, ModelError), match=message) as caught:
        models.create(name)
    assert "\n" not in str(caught.value)


def test_options_a_builder_does_not_take() -> None:
    with pytest.raises(ModelError, match=r"cannot build 'resnet20'.*wdith"):
        models.create("resnet20", wdith=3)
    with pytest.raises(ModelError, match="plain JSON"):
        models.create("resnet20", width=torch.zeros(1))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 1, 16, 16))


@pytest.mark.parametrize("form", ["wrapped.th", "plain.pt", "plain.safetensors"])
def test_weights_come_back_from_every_form_of_file(tmp_path: Path, form: str) -> None:
    source = models.create("resnet8", in_channels=1, width=4)
    state = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    file = tmp_path / form
    if form == "wrapped.th":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "best": 0.9}, file)
    elif form == "plain.pt":
        torch.save(source.state_dict(), file)
    else:
        save_file(state, file)
    loaded = models.create("resnet8", in_channels=1, width=4, weights=file)
    assert torch.equal(outputs(loaded), outputs(source))


def test_weights_that_do_not_fit_change_nothing_and_say_what(tmp_path: Path) -> None:
    state = models.create("resnet8", width=4).state_dict()
    del state["bn1.weight"]
    state["extra"] = torch.zeros(1)
    state["linear.weight"] = torch.zeros(10, 7)
    torch.save(state, tmp_path / "other.pt")
    model = models.create("resnet8", width=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        models.load_weights(model, tmp_path / "other.pt")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("missing (bn1.weight)", "not in the model (extra)", "linear.weight [10, 7] instead of [10, 16]"):
        assert part in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    state = models.create("resnet8").state_dict()
    state["layer1.0.conv1.weight"][0] = np.nan
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ModelError, match=r"not finite \(layer1.0.conv1.weight\)"):
        models.create("resnet8", weights=tmp_path / "nan.pt")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file"):
        models.create("resnet8", weights=tmp_path / "absent.th")
    (tmp_path / "text.th").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "code.th").write_bytes(pickle.dumps(models.create("resnet8"), protocol=2))
    torch.save([1, 2], tmp_path / "list.th")
    torch.save(models.create("resnet8"), tmp_path / "whole.th")
    for name in ("text.th", "text.safetensors", "code.th", "list.th", "whole.th"):
        with pytest.raises(ModelError, match=name) as caught:
            models.create("resnet8", weights=tmp_path / name)
        assert "\n" not in str(caught.value)


RIGHT = {"resnet20": {2_000: 1_833, 10_000: 9_173}, "resnet56": {2_000: 1_859, 10_000: 9_339}}
"""Of how many of CIFAR-10's first test images each pretrained network knows the class; of all, as its author says."""


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="FLOWPRUNE_DATA does not point at CIFAR-10 and the pretrained weights")
@pytest.mark.parametrize(("name", "count"), [(name, times(quick=2_000, thorough=10_000)) for name in RIGHT])
def test_pretrained_weights_reach_their_accuracy(name: str, count: int) -> None:
    from torchvision.datasets import CIFAR10

    assert DATA is not None
    (weights,) = (DATA / "weights").glob(f"{name}-*.th")
    model = models.create(name, weights=weights).eval().to(memory_format=torch.channels_last)
    data = CIFAR10(DATA, train=False, download=False)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images, targets = torch.from_numpy(data.data), torch.tensor(data.targets)
    hits = 0
    with torch.inference_mode():
        for start in range(0, count, 500):
            x = ((images[start : start + 500] / 255 - mean) / deviation).permute(0, 3, 1, 2)
            hits += int((model(x).argmax(1) == targets[start : start + 500]).sum())
    assert len(images) == 10_000
    assert abs(hits - RIGHT[name][count]) <= 2  # an image on the edge may fall either way on another processor
