"""Refits on calibration images: exact where the cut lost nothing, least squares where it did."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.errors import DataError, FlowpruneError, ModelError, UnknownNameError
from flowprune.methods.recovery import REGISTRY, LeastSquares, Recovery
from flowprune.methods.recovery._calibration.patches import as_matrices, weight_matrix

torch.set_num_threads(1)

LAYERS = {
    "strided, padded": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "oblong, dilated": lambda: nn.Conv2d(2, 3, (1, 3), padding=(0, 2), dilation=(1, 2), bias=False),
    "same, reflected": lambda: nn.Conv2d(3, 4, 5, padding="same", padding_mode="reflect"),
    "same, even kernel": lambda: nn.Conv2d(3, 4, (2, 4), padding="same"),
    "circular": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "one dimension": lambda: nn.Conv1d(3, 4, 3, padding=1),
    "three dimensions": lambda: nn.Conv3d(2, 3, 3, padding=1),
    "linear": lambda: nn.Linear(6, 4),
}


class Residual(nn.Module):
    """A stem, a residual block, a grouped and a depthwise convolution, and a head; with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu_(self.bn1(self.conv1(x))))))
        x = torch.relu(self.down(torch.relu(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


def network() -> Residual:
    torch.manual_seed(0)
    model = Residual().double()
    for norm in (model.stem_norm, model.bn1, model.bn2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


def images(count: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class LastChannels:
    """An importance by which the last channels leave first."""

    def __call__(self, model: nn.Module, inputs: object, groups: list) -> list[torch.Tensor]:
        return [torch.arange(group.channels, 0, -1, dtype=torch.float64) for group in groups]


def halved(model: nn.Module, inputs: torch.Tensor, **budget: object) -> tuple[fp.Plan, nn.Module]:
    plan = fp.plan(model, inputs[:2], importance=LastChannels(), **(budget or {"channels": 0.5}))
    return plan, fp.prune(model, plan).eval()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_weight_times_its_patches(name: str):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    shape = (6,) if isinstance(layer, nn.Linear) else (layer.in_channels, *[7] * (layer.weight.dim() - 2))
    x = torch.randn(3, *shape, dtype=torch.float64)
    y = layer(x).detach()
    ((patches, columns),) = as_matrices(layer, x, y)
    bias = 0 if layer.bias is None else layer.bias.detach().reshape(len(patches), -1, 1)
    torch.testing.assert_close(weight_matrix(layer) @ patches + bias, columns, rtol=0, atol=1e-12)


def test_duplicates_that_left_are_made_up_for_exactly():
    model, x = network(), images()
    with torch.no_grad():  # the last six channels of the block's inside say what the first six say
        for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias, model.bn1.running_mean):
            tensor[6:] = tensor[:6]
        model.bn1.running_var[6:] = model.bn1.running_var[:6]
    plan, small = halved(model, x, channels={"conv1": 0.5, "*": 1.0})
    assert plan.filters_removed == 6
    with torch.no_grad():
        assert float((small(x) - model(x)).abs().max()) > 1e-2
        again = fp.recover(small, model, plan, x.split(8), recovery=LeastSquares(ridge=0.0))
        torch.testing.assert_close(again(images(8, 5)), model(images(8, 5)), rtol=0, atol=1e-10)


def test_linearly_dependent_units_are_made_up_for_exactly():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 9), nn.Linear(9, 3)).double()
    x = torch.randn(60, 4, dtype=torch.float64)
    plan, small = halved(model, x)
    assert [layer.out_features for layer in small] == [6, 4, 3]  # as many as the four inputs say
    again = fp.recover(small, model, plan, [x], recovery=LeastSquares(ridge=0.0))
    with torch.no_grad():
        assert float((small(x) - model(x)).abs().max()) > 1e-2
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=1e-10)


def test_every_consumer_is_refitted_from_the_small_networks_own_inputs():
    model, x = network(), images()
    plan, small = halved(model, x)
    method = LeastSquares(ridge=0.0)
    again = fp.recover(small, model, plan, x.split(10), recovery=method)
    assert list(method.refits) == ["conv1", "conv2", "depthwise", "down", "head"] and not method.left
    assert all(errors.after < errors.before for errors in method.refits.values())
    # The reference: the inputs that the refitted network gives its layers, the dense network's outputs, by lstsq.
    seen, wanted = {}, {}
    hooks = [
        again.get_submodule(n).register_forward_pre_hook(lambda _, a, n=n: seen.update({n: a[0].clone()}))
        for n in method.refits
    ]
    hooks += [
        model.get_submodule(n).register_forward_hook(lambda _, a, y, n=n: wanted.update({n: y.clone()}))
        for n in method.refits
    ]
    with torch.no_grad():
        again(x), model(x)
    for hook in hooks:
        hook.remove()
    live = seen["head"].amax(0) > 0
    flat = torch.cat([seen["head"][:, live], torch.ones(len(x), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(flat, wanted["head"]).solution
    found = torch.cat([again.head.weight[:, live].T, again.head.bias[None]])
    torch.testing.assert_close(found, solution, rtol=0, atol=1e-9)
    patches = nn.functional.unfold(seen["conv2"], 3, padding=1)  # [images, d, positions]
    rows = patches.permute(0, 2, 1).reshape(-1, patches.shape[1])
    kept = wanted["conv2"][:, [c for c in range(8) if c not in plan.removed["conv2.weight"][0]]]
    shift = small.bn2.running_mean - again.bn2.running_mean
    missing = kept.flatten(2).permute(0, 2, 1).reshape(len(rows), -1) - shift - rows @ again.conv2.weight.flatten(1).T
    assert float((rows.T @ missing).abs().max()) < 1e-8 and float(missing.mean(0).abs().max()) < 1e-10
    assert float(missing.square().mean()) == pytest.approx(method.refits["conv2"].after, abs=1e-10)


def test_how_the_images_come_in_batches_and_how_many_are_held_changes_nothing():
    model, x = network(), images()
    plan, small = halved(model, x)
    state = copy.deepcopy(small.state_dict())
    threads = threading.active_count()
    results = [
        fp.recover(small, model, plan, x.split(size), recovery=LeastSquares(at_once=held)).state_dict()
        for size, held in ((24, 8), (7, 8), (7, 1), (7, 1))
    ]
    for key, first in results[0].items():
        for other in results[1:]:
            torch.testing.assert_close(other[key], first, rtol=0, atol=1e-10)
        assert torch.equal(results[2][key], results[3][key])
        assert torch.equal(state[key], small.state_dict()[key])
    assert threading.active_count() == threads
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (model, small) for m in net.modules())


def test_a_strong_ridge_holds_the_weights_and_a_dead_input_keeps_its_own():
    model, x = network(), images()
    plan, small = halved(model, x)
    held = fp.recover(small, model, plan, [x], recovery=LeastSquares(ridge=1e12))
    torch.testing.assert_close(held.conv2.weight, small.conv2.weight, rtol=0, atol=1e-9)
    with torch.no_grad():
        small.bn1.weight[0], small.bn1.bias[0] = 0, -1  # ReLU makes it zero
    for ridge in (0.0, 1e-3):
        again = fp.recover(small, model, plan, [x], recovery=LeastSquares(ridge=ridge))
        torch.testing.assert_close(again.conv2.weight[:, 0], small.conv2.weight[:, 0], rtol=0, atol=1e-9)
        assert not torch.allclose(again.conv2.weight[:, 1], small.conv2.weight[:, 1])


def test_float32_and_training_mode_are_kept():
    model, x = network().float().train(), images().float()
    plan, small = halved(model.eval(), x)
    model.train()
    small.train()
    small.bn1.eval()
    again = fp.recover(small, model, plan, x.split(8), recovery=["least_squares", "batch_norm"])
    assert again.conv2.weight.dtype == torch.float32 and again.conv2.weight.requires_grad
    assert again.training and again.bn2.training and not again.bn1.training and model.training
    assert all(torch.isfinite(tensor).all() for tensor in again.state_dict().values())


class Odd(nn.Module):
    """What is not refitted: a transposed convolution, a layer that runs twice, a subclass."""

    def __init__(self) -> None:
        super().__init__()

        class Own(nn.Linear):
            pass

        self.first = nn.Linear(4, 8)
        self.twice = nn.Linear(8, 8)
        self.own = Own(8, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.own(self.twice(torch.relu(self.twice(x))))))


def test_what_cannot_be_refitted_is_left_alone_and_named():
    torch.manual_seed(0)
    model, x = Odd().double(), torch.randn(30, 4, dtype=torch.float64)
    plan, small = halved(model, x)
    method = LeastSquares()
    again = fp.recover(small, model, plan, [x], recovery=method)
    assert set(method.left) == {"twice", "own"} and list(method.refits) == ["last"]
    assert "more than once" in method.left["twice"] and "Own is not refitted" in method.left["own"]
    assert torch.equal(again.twice.weight, small.twice.weight)

    up = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    plan, small = halved(up, images(2).float())
    method.prepare(small, up, plan, [images().float()])
    assert list(method.left) == ["2"] and list(method.refits) == ["4"]


class Transformer(nn.Module):
    """Attention, and an MLP beside a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


class Uncalled(nn.Sequential):
    """The weight of its second layer is read without the layer being called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(torch.relu(self[0](x)), self[1].weight, self[1].bias)


def test_a_transformer_is_refitted_where_its_layers_are_called():
    torch.manual_seed(0)
    model, x = Transformer().eval(), torch.randn(30, 5, 6)
    plan = fp.plan(model, x[:2], importance=fp.importance.L2(), macs=0.6)
    small, method = fp.prune(model, plan).eval(), LeastSquares()
    with torch.no_grad():
        again = fp.recover(small, model, plan, x.split(10), recovery=method)
        lost = [float((network(x) - model(x)).square().mean()) for network in (small, again)]
    assert lost[1] < 0.5 * lost[0] and {"up", "down", "head"} == set(method.refits)
    assert list(method.left) == ["attention.out_proj"] and "NonDynamically" in method.left["attention.out_proj"]
    model = Uncalled(nn.Linear(6, 8), nn.Linear(8, 2))
    plan = fp.plan(model, x[:2], importance=fp.importance.L2(), channels=0.5)
    method.prepare(fp.prune(model, plan), model, plan, [x])
    assert not method.refits and "without the layer" in method.left["1"]


def test_a_masked_weight_keeps_its_zeros():
    model, x = network(), images()
    plan, small = halved(model, x)
    small = fp.mask(small, x[:2], mask={"conv2.weight": small.conv2.weight > 0})
    method = LeastSquares()
    again = fp.recover(small, model, plan, [x], recovery=[method, "filter_sketch"])
    assert "mask" in method.left["conv2"] and torch.equal(again.conv2.weight, small.conv2.weight)
    assert "head" in method.refits


def test_what_is_wrong_is_one_line():
    model, x = network(), images(4)
    plan, small = halved(model, x)
    for wrong in ({"ridge": -1}, {"ridge": float("nan")}, {"at_once": 0}, {"layers": "some"}):
        with pytest.raises(FlowpruneError) as raised:
            LeastSquares(**wrong)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="no batch"):
        fp.recover(small, model, plan)
    with pytest.raises(UnknownNameError, match="least_squares"):
        fp.recover(small, model, plan, [x], recovery="least_square")
    with pytest.raises(ModelError, match="not what the plan leaves"):
        fp.recover(model, model, plan, [x])
    with pytest.raises(ModelError, match="another network"):
        fp.recover(small, nn.Linear(3, 3), plan, [x])
    with pytest.raises(ModelError, match="NaN"):
        fp.recover(small, model, plan, [x * float("nan")])

    class InTraining(Recovery):
        trains = True

    with pytest.raises(FlowpruneError, match="acts during training"):
        fp.recover(small, model, plan, [x], recovery=InTraining())
    assert {"least_squares", "batch_norm"} <= set(REGISTRY)
