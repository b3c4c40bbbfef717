"""Hidden convolutions with more features of k bits: the same function to begin with, cut without a change, plain in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from networks.kinds_of_layers import network
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.interfaces import Outcome
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.quantizers._channelwise.widened_layer import WidenedConv2d
from flowprune.methods.replacements import restore
from flowprune.methods.replacements.widened_convolution import WidenedConvolution

METHOD = WidenedConvolution()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def convolution(**options: Any) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(4, 6, 3, dtype=torch.float64, **options)


@pytest.mark.parametrize("widening", [2, 6])
@pytest.mark.parametrize(
    "options", [{"bias": False}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2, "padding_mode": "circular"}]
)
def test_it_is_the_convolution_it_was_where_nothing_is_rounded_and_nothing_beyond_the_range(
    widening: int, options: dict[str, Any]
) -> None:
    layer, x = convolution(**options), random(2, 4, 9, 9)
    new = METHOD.replace(layer, widening=widening, bits=None)
    assert isinstance(new, WidenedConv2d) and new.wide.out_channels == widening * 6
    far = layer(x).abs().amax((0, 2, 3)).detach() + 1
    new.reach(far, far)
    torch.testing.assert_close(new(x), layer(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(new.narrow()(x), layer(x), rtol=0, atol=0)


def test_more_features_and_more_bits_are_nearer_to_the_convolution() -> None:
    layer, x = convolution(), random(4, 4, 9, 9)
    far = layer(x).abs().amax((0, 2, 3)).detach()

    def apart(widening: int, bits: int) -> float:
        new: Any = METHOD.replace(layer, widening=widening, bits=None)
        new.reach(far, far)
        levels, new.grid.bits = new.levels(), bits
        new.levels = lambda: levels  # the features alone are rounded
        return float((new(x) - layer(x)).detach().norm() / layer(x).detach().norm())

    assert apart(2, 8) < 0.01 < apart(2, 4) < apart(2, 2) and apart(8, 2) < apart(4, 2) < apart(2, 2)


@pytest.fixture(scope="module")
def nets() -> tuple[nn.Module, nn.Module, Tensor]:
    """A network whose batch norms have seen images, the same widened, and the images."""
    x = random(16, 1, 8, 8).float()
    model = network("grouped").train()
    for _ in range(20):
        model(x)
    return model.eval(), fp.replace(model, x[:1], replacement="widened_convolution", bits=4).eval(), x


def test_hidden_convolutions_of_one_group_are_widened_over_the_ranges_of_their_norms(
    nets: tuple[nn.Module, nn.Module, Tensor],
) -> None:
    model, wide, x = nets
    widened = [name for name, one in wide.named_modules() if isinstance(one, WidenedConv2d)]
    assert widened == ["plain", "pointwise"]
    norm: Any = model.get_submodule("norm_of_plain")
    deviation = (norm.running_var + norm.eps).sqrt()
    mean = norm.running_mean - model.get_submodule("plain").bias
    above, below = ((3 * deviation + side * mean).maximum(deviation) for side in (1, -1))
    grid: Any = wide.get_submodule("plain.grid")
    torch.testing.assert_close(grid.reach.flatten(), torch.cat([above, below]).detach())
    apart = (wide(x) - model(x)).norm() / model(x).norm()
    assert apart < 0.5


def test_wide_features_with_zero_columns_leave_without_a_change_and_plain_layers_stay(
    nets: tuple[nn.Module, nn.Module, Tensor], tmp_path: Path
) -> None:
    _, wide, x = nets
    layer: Any = wide.get_submodule("plain")
    gone = torch.tensor([0, 5, 31])
    with torch.no_grad():
        layer.projection.weight[:, gone] = 0
    plan = fp.plan(wide, x[:1], outcome=Outcome(leaves={"plain.scale.weight": gone}))
    small = fp.prune(wide, plan).eval()
    assert small.get_submodule("plain.wide").weight.shape == (29, 16, 3, 3)
    torch.testing.assert_close(small(x), wide(x), rtol=0, atol=1e-6)
    plain = restore(small, replacement="widened_convolution").eval()
    assert not any(isinstance(one, WidenedConv2d) for one in plain.modules())
    torch.testing.assert_close(plain(x), small(x), rtol=0, atol=1e-5)
    weight = plain.get_submodule("plain.wide").weight
    assert all(len(row.div(row.abs().max()).mul(1e4).round().unique()) <= 16 for row in weight)
    for number, one in enumerate((small, plain)):
        fp.save(one, tmp_path / f"{number}.fp")
        again = fp.load(tmp_path / f"{number}.fp", model=network("grouped")).eval()
        assert torch.equal(again(x), one(x))
    fp.export(plain, x[:1], tmp_path / "plain.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: x[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), plain(x[:1]).detach(), rtol=0, atol=1e-4)


def test_what_cannot_be_widened_is_refused_in_one_line(nets: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, _, x = nets
    refused: list[tuple[nn.Module, dict[str, Any], type[FlowpruneError], str]] = [
        (network("linear"), {}, FlowpruneError, "no convolution behind the first"),
        (network("transformer"), {}, FlowpruneError, "no convolution behind the first"),
        (model, {"names": ["grouped"]}, ModelError, "only a Conv2d of one group"),
        (model, {"widening": 3}, FlowpruneError, "an even number"),
        (model, {"bits": 0}, FlowpruneError, "give 1 to 8"),
    ]
    for one, options, kind, said in refused:
        with pytest.raises(kind, match=said) as raised:
            fp.replace(one, x[:1], replacement="widened_convolution", **options)
        assert "\n" not in str(raised.value)
    assert type(fp.replace(model, x[:1], replacement="widened_convolution", names=["stem"])[0]) is WidenedConv2d  # type: ignore[index]
    trained = fp.replace(model, x[:1], replacement="widened_convolution")
    with torch.no_grad():
        trained.get_submodule("plain.projection").weight += 0.1
    with pytest.raises(ModelError, match="trained or cut since"):
        trained.get_submodule("plain").narrow()  # type: ignore[operator]
