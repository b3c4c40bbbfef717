"""The forms of the penalty beside references of ten lines in float64, and their gradients beside finite differences."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from import_server import start_method
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import flowprune as fp
from flowprune.errors import FlowpruneError
from flowprune.methods.regularizers.feature_flow import FeatureFlow

FORMS: list[dict[str, Any]] = [
    {"size": "relative"},
    {"size": "relative", "norm": 2, "reduction": "channel"},
    {"size": "detached", "norm": 1, "reduction": "sum"},
    {"norm": "group"},
    {"norm": "group", "reduction": "channel", "size": "relative"},
    {"norm": "group", "reduction": "sum", "weights": "macs"},
    {"norm": "path"},
    {"norm": "path", "reduction": "channel", "size": "relative"},
    {"norm": "path", "reduction": "channel", "size": "detached", "weights": "macs"},
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("resnet8", in_channels=1, width=4).double()


def features_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What enters the first block and what leaves each; option-A shortcuts lead from one to the next."""
    features = [functional.relu(model.bn1(model.conv1(images)))]  # type: ignore[operator]
    for stage in (model.layer1, model.layer2, model.layer3):
        for block in stage:  # type: ignore[union-attr]
            features.append(block(features[-1]))
    return features


def carried(source: Tensor, target: Tensor) -> Tensor:
    if source.shape == target.shape:
        return source
    added = target.shape[1] - source.shape[1]
    return functional.pad(source[:, :, ::2, ::2], (0, 0, 0, 0, added // 2, added - added // 2))


def differences(features: list[Tensor]) -> dict[str, list[tuple[int, Tensor]]]:
    gradients, curvatures = [], []
    for index in range(1, len(features)):
        near = carried(features[index - 1], features[index])
        gradients.append((index, features[index] - near))
        if index > 1:
            far = carried(carried(features[index - 2], features[index - 1]), features[index])
            curvatures.append((index, features[index] - 2 * near + far))
    return {"gradient": gradients, "curvature": curvatures}


def stream(index: int, channel: int, width: int = 4) -> int:
    """Channel c of a stage is channel c + k of the next: its number in the widest, the third."""
    return channel + {0: width // 2 + width, 1: width // 2 + width, 2: width, 3: 0}[index]


def macs_of(way: int, model: nn.Module, images: Tensor) -> float:
    """What the network loses with this channel of the stream, counted on the stages that have it."""
    sizes = [images.shape[-1], images.shape[-1] // 2, images.shape[-1] // 4]
    total = 10.0  # the classifier reads every channel of the last stage
    for stage, (size, width) in enumerate(zip(sizes, (4, 8, 16), strict=True)):
        first, last = (16 - width) // 2, (16 + width) // 2
        if first <= way < last:
            total += 9 * width * size**2  # made by the block's second convolution
            if stage == 0:
                total += 9 * size**2 + 9 * width * size**2  # made by the stem, read by the block
            if stage < 2:
                total += 9 * 2 * width * sizes[stage + 1] ** 2  # read by the next stage's first convolution
    return total


def reference(model: nn.Module, images: Tensor, name: str, form: dict[str, Any]) -> Tensor:
    norm, reduction, size = form.get("norm", 1), form.get("reduction", "mean"), form.get("size", "absolute")
    features = features_of(model, images)
    total, ways = torch.zeros((), dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    costs = torch.tensor([macs_of(way, model, images) for way in range(16)], dtype=torch.float64)
    weights = costs / costs.mean() if form.get("weights") == "macs" else torch.ones(16, dtype=torch.float64)
    firsts = [(0, features[0] / 2)] if norm == "path" and name == "gradient" else []
    for index, difference in [*firsts, *differences(features)[name]]:
        y = features[index]
        if norm in ("group", "path"):
            divisor = y.square().mean().sqrt()
        else:
            divisor = y.abs().mean() if norm == 1 else y.square().mean((2, 3)).sqrt().mean()
        divisor = {"absolute": torch.ones(()), "relative": divisor, "detached": divisor.detach()}[size]
        own = [stream(index, channel) for channel in range(y.shape[1])]
        if norm == "path":
            ways = ways.index_add(0, torch.tensor(own), (difference / divisor).square().mean((0, 2, 3)))
            continue
        if norm == "group":
            sizes = difference.square().mean((0, 2, 3)).sqrt() * weights[own]
        else:
            entries = difference.abs() if norm == 1 else difference.square().mean((2, 3), keepdim=True).sqrt()
            sizes = entries.mean((0, 2, 3))
        factor = {"mean": 1 / y.shape[1], "channel": 1, "sum": y[0, 0].numel()}[reduction]
        total = total + factor * sizes.sum() / divisor
    if norm == "path":
        roots = (weights * ways.clamp_min(1e-300).sqrt() * (ways > 0)).sum()
        return roots / 16 if reduction == "mean" else roots
    return total


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_value_and_gradient_equal_the_reference(form: dict[str, Any]) -> None:
    model, images = network(), torch.randn(6, 1, 12, 12, dtype=torch.float64)
    expected = 0.3 * reference(model, images, "gradient", form) + 0.7 * reference(model, images, "curvature", form)
    wanted = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    with FeatureFlow(model, 0.3, 0.7, **form) as flow:
        model(images)
        penalty = flow.penalty()
        gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(penalty, expected, rtol=1e-10, atol=0)
    for mine, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_forwards_are_one_batch(form: dict[str, Any]) -> None:
    model, images = network().eval(), torch.randn(6, 1, 8, 8, dtype=torch.float64)
    expected = reference(model, images, "gradient", form)
    model.training = True  # only then forwards are put together; the batch norms keep to their running statistics
    with FeatureFlow(model, 1.0, **form) as flow:
        model(images[:4])
        model(images[4:])
        torch.testing.assert_close(flow.penalty(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[1], *FORMS[3:8]], ids=str)
def test_gradcheck(form: dict[str, Any]) -> None:
    model, images = network().eval(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    scale = model.layer2[0].bn2.weight  # type: ignore[index]
    with FeatureFlow(model, 0.3, 0.7, inputs=images, **form) as flow:

        def penalty(scales: Tensor) -> Tensor:
            flow.forget()
            torch.func.functional_call(model, {"layer2.0.bn2.weight": scales}, (images,))
            return flow.penalty()

        assert torch.autograd.gradcheck(penalty, (scale.detach().clone().requires_grad_(),), eps=1e-6, atol=1e-5)


def test_a_relative_penalty_has_no_reward_for_shrinking_everything() -> None:
    """With means and shifts of 0 a network of ReLUs scales with its images; the gradient along that is 0."""
    found, along = {}, {}
    for size in ("absolute", "relative", "detached"):
        for factor in (1.0, 0.1):
            model = network().eval()
            images = torch.linspace(-1, 1, 192, dtype=torch.float64).view(3, 1, 8, 8).requires_grad_()
            with FeatureFlow(model, 1.0, size=size) as flow:  # type: ignore[arg-type]
                model(factor * images)
                penalty = flow.penalty()
                found[size, factor] = penalty.item()
                along[size] = float((torch.autograd.grad(penalty, images)[0] * images).sum())
    assert found["absolute", 0.1] == pytest.approx(0.1 * found["absolute", 1.0], rel=1e-9)
    assert found["relative", 0.1] == pytest.approx(found["relative", 1.0], rel=1e-9)
    assert along["relative"] == pytest.approx(0, abs=1e-12) and along["detached"] > 0.1


def test_a_way_that_is_zero_leaves_in_every_stage() -> None:
    """What the path form drives to zero is what the engine takes out as one channel of the stream."""
    model, images = network().eval(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    flow = FeatureFlow(model, 1.0, norm="path", inputs=images)
    assert flow._ways is not None
    labels = flow._ways.labels
    shared = set(labels[0].tolist())
    assert shared < set(labels[2].tolist()) < set(labels[3].tolist()) and len(set(labels[3].tolist())) == 16
    flow.close()


PROCESSES = 2


def part(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (3,), generator=generator)


def gradients_of(rank: int, port: int, folder: str, form: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    model = network().eval()
    runner = DistributedDataParallel(model)
    images, labels = part(rank)
    flow = FeatureFlow(runner, 0.3, 0.7, **form)
    loss = functional.cross_entropy(runner(images), labels)
    (loss + flow.penalty()).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this build of torch has no torch.distributed")
@pytest.mark.parametrize("form", [FORMS[0], FORMS[8]], ids=str)
def test_two_processes_have_the_gradient_of_one_with_all_images(tmp_path: Path, form: dict[str, Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        gradients_of, (port, str(tmp_path), form), nprocs=PROCESSES, start_method=start_method()
    )
    model = network().eval()
    parts = [part(rank) for rank in range(PROCESSES)]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    with FeatureFlow(model, 0.3, 0.7, **form) as flow:
        (functional.cross_entropy(model(images), labels) + flow.penalty()).backward()
    for rank in range(PROCESSES):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for parameter, gradient in zip(model.parameters(), theirs, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": 3}, 'norm=3 is none of 1, 2, "group" and "path"'),
        ({"size": "relativ"}, "did you mean 'relative'"),
        ({"weights": "macs"}, 'needs norm="group" or norm="path"'),
        ({"norm": "path", "reduction": "sum"}, 'use reduction="channel" or "mean"'),
        ({"norm": "group", "curvature_form": "angle"}, "the angle is one of whole images"),
        ({"gradient": "0.5 pull", "norm": "path"}, "not known beforehand"),
    ],
)
def test_forms_that_do_not_go_together_are_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FlowpruneError) as caught:
        FeatureFlow(network(), **{"gradient": 0.1, **options})
    assert said in str(caught.value) and "\n" not in str(caught.value)
