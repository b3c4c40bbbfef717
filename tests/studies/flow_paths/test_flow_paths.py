"""The paths: networks whose way is known, and the plane against principal components by numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

import flowprune as fp
from flowprune.errors import DataError, ModelError, UnknownNameError
from flowprune.models.resnet import CifarResNet
from flowprune.models.vgg import PlainNet
from flowprune.studies.flow_paths.principal_plane import principal_plane

torch.set_num_threads(1)


class Walk(nn.Module):
    """Adds one given vector after the other to an image's channels, which it leaves as they are otherwise."""

    def __init__(self, *steps: list[float]) -> None:
        super().__init__()
        self.stem = nn.Identity()
        self.moves = nn.ModuleList(Move(step) for step in steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for move in self.moves:
            x = move(x)
        return x.mean((2, 3))


class Move(nn.Module):
    def __init__(self, step: list[float]) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step).reshape(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.step


def walked(*steps: list[float], batches: object = None) -> fp.flow.FlowPaths:
    model = Walk(*steps)
    names = ["stem", *(f"moves.{number}" for number in range(len(steps)))]
    given = [torch.rand(5, len(steps[0]), 1, 1)] if batches is None else batches
    return fp.flow_paths(model, given, points=names)


def test_a_straight_path_is_straight():
    (stage,) = walked([1.0, 2.0], [2.0, 4.0], [0.5, 1.0]).stages
    assert stage.points == ("stem", "moves.0", "moves.1", "moves.2") and not stage.carried
    assert stage.straightness == pytest.approx(1) and stage.net == pytest.approx(3.5 * math.sqrt(5))
    assert stage.length == pytest.approx(stage.net)
    assert stage.along == pytest.approx([0, math.sqrt(5), 3 * math.sqrt(5), 3.5 * math.sqrt(5)])
    assert stage.aside == pytest.approx([0] * 4, abs=1e-5)
    assert stage.explained[0] == pytest.approx(1) and stage.visible == pytest.approx(1)
    ((*drawn,),) = stage.coordinates
    assert [y for _, y in drawn] == pytest.approx([0] * 4, abs=1e-4)
    assert drawn[3][0] - drawn[0][0] == pytest.approx(stage.net / stage.scale, abs=1e-4)


def test_a_right_angle_is_one():
    (stage,) = walked([3.0, 0.0], [0.0, 4.0]).stages
    assert stage.steps == pytest.approx([3, 4]) and stage.net == pytest.approx(5)
    assert stage.straightness == pytest.approx(5 / 7)
    # The corner's foot lies 9 / 5 along the hypotenuse, and its height is 12 / 5.
    assert stage.along == pytest.approx([0, 1.8, 5]) and stage.aside == pytest.approx([0, 2.4, 0], abs=1e-6)
    ((a, b, c),) = np.array(stage.coordinates) * stage.scale
    assert math.dist(a, b) == pytest.approx(3, abs=1e-3) and math.dist(b, c) == pytest.approx(4, abs=1e-3)
    assert np.dot(b - a, c - b) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("count", [2, 4, 7])
def test_equal_steps_at_right_angles_have_one_over_the_root_of_their_number(count):
    (stage,) = walked(*np.eye(count).tolist()).stages
    assert stage.straightness == pytest.approx(1 / math.sqrt(count))


def test_a_loop_leads_nowhere_and_rest_is_no_path():
    (loop,) = walked([1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]).stages
    assert loop.straightness == pytest.approx(0, abs=1e-6) and loop.length == pytest.approx(2 + math.sqrt(2))
    (rest,) = walked([0.0, 0.0], [0.0, 0.0]).stages
    assert rest.straightness is None and rest.length == 0 and rest.visible == 1
    paths = walked([0.0, 0.0], [0.0, 0.0], batches=[torch.zeros(3, 2, 1, 1)])
    assert paths.stages[0].scale == 0 and paths.totals["relative_gradient"] is None
    assert np.array(paths.stages[0].coordinates).tolist() == [[[0, 0]] * 3]
    json.dumps(paths.as_dict(), allow_nan=False)


def test_an_image_that_does_not_move_says_nothing_about_straightness():
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor([2.0, 1.0]).reshape(1, 2, 1, 1)

    model = nn.Sequential(nn.Identity(), Gate(), Gate())
    still, moving = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    batch = torch.stack([still, moving, still]).reshape(3, 2, 1, 1)
    (stage,) = fp.flow_paths(model, [batch], points=["0", "1", "2"]).stages
    assert stage.straightness == pytest.approx(1) and stage.net == pytest.approx(1)  # (0 + 3 + 0) / 3


def test_the_plane_is_that_of_principal_components():
    paths = torch.randn(4, 5, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plane = principal_plane(paths)
    reference = PCA(2, svd_solver="full").fit(paths.reshape(20, 300).numpy())
    wanted = reference.transform(paths.reshape(20, 300).numpy()).reshape(4, 5, 2)
    signs = np.sign((wanted * plane.coordinates.numpy()).sum((0, 1)))
    assert np.allclose(plane.coordinates.numpy(), wanted * signs, atol=1e-9)
    assert plane.explained == pytest.approx(reference.explained_variance_ratio_)
    whole = np.linalg.norm(np.diff(paths.numpy(), axis=1), axis=2).sum()
    assert plane.visible == pytest.approx(np.linalg.norm(np.diff(wanted, axis=1), axis=2).sum() / whole)
    assert ((plane.coordinates[:, -1] - plane.coordinates[:, 0]).mean(0) > 0).all()


def test_the_plane_does_not_care_for_the_basis_and_is_the_same_twice():
    generator = torch.Generator().manual_seed(1)
    paths = torch.randn(3, 4, 40, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))
    first, turned = principal_plane(paths), principal_plane(paths @ turn + 7)
    assert torch.allclose(first.coordinates, turned.coordinates, atol=1e-9)
    assert torch.equal(first.coordinates, principal_plane(paths.clone()).coordinates)


def test_one_path_of_two_points_has_one_axis():
    plane = principal_plane(torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]]))
    assert plane.coordinates.tolist() == [[[-2.5, 0], [2.5, 0]]]
    assert plane.explained == (1, 0) and plane.visible == 1


def network() -> CifarResNet:
    torch.manual_seed(0)
    model = CifarResNet(2, width=4)
    model(torch.randn(16, 3, 8, 8))
    return model


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = (5, 2, 4)
    labels = torch.tensor([0, 2, 0, 2, 5, 5, 0, 2, 2, 0, 5]).split(sizes)
    return [(torch.randn(n, 3, 8, 8, generator=generator), y) for n, y in zip(sizes, labels, strict=True)]


def test_the_paths_of_a_resnet_are_those_of_its_features():
    model = network()
    found = fp.flow_paths(model, batches())
    assert model.training and not model._forward_hooks and not model._forward_pre_hooks
    model.eval()
    x, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    with torch.no_grad():
        y = functional.relu(model.bn1(model.conv1(x)))
        stages = []
        for stage in (model.layer1, model.layer2, model.layer3):
            path = [stage[0].shortcut(y)]
            for block in stage:
                y = block(y)
                path.append(y)
            stages.append(torch.stack([point.flatten(1).double() for point in path], 1).numpy())  # [image, point, D]
    assert [stage.carried for stage in found.stages] == [False, True, True]
    assert found.stages[1].points == ("layer1.1", "layer2.0", "layer2.1") and found.stages[1].shape == (8, 4, 4)
    for stage, path in zip(found.stages, stages, strict=True):
        steps = np.linalg.norm(np.diff(path, axis=1), axis=2)
        net = np.linalg.norm(path[:, -1] - path[:, 0], axis=1)
        assert stage.steps == pytest.approx(steps.mean(0), rel=1e-5)
        assert stage.length == pytest.approx(steps.sum(1).mean(), rel=1e-5)
        assert stage.straightness == pytest.approx((net / steps.sum(1)).mean(), rel=1e-5)
        assert stage.scale == pytest.approx(np.linalg.norm(path, axis=2).mean(), rel=1e-5)
        means = np.stack([path[labels.numpy() == label].mean(0) for label in (0, 2, 5)])
        wanted = PCA(2, svd_solver="full").fit_transform(means.reshape(9, -1)).reshape(3, 3, 2) / stage.scale
        signs = np.sign((wanted * np.array(stage.coordinates)).sum((0, 1)))
        assert np.allclose(stage.coordinates, wanted * signs, atol=2e-5)
        assert stage.labels == (0, 2, 5) and stage.counts == (4, 4, 3)
    assert found.profile.as_dict() == fp.FeatureFlow(model).profile(batches()).as_dict()


def test_the_totals_are_sums_over_points_and_stages():
    found = fp.flow_paths(network(), batches())
    points, totals = found.profile.points, found.totals
    assert totals["gradient"] == pytest.approx(found.profile.gradient)
    assert totals["relative_curvature"] == pytest.approx(sum(p.curvature / p.magnitude for p in points[2:]))
    assert totals["straightness"] == pytest.approx(sum(stage.straightness for stage in found.stages) / 3)


def test_smaller_features_shorten_the_path_but_not_relative_to_them():
    model, smaller = Walk([1.0, 2.0], [2.0, -1.0]), Walk([0.1, 0.2], [0.2, -0.1])
    x = torch.rand(4, 2, 3, 3)
    names = ["stem", "moves.0", "moves.1"]
    large, small = (fp.flow_paths(m, [i], points=names) for m, i in ((model, x), (smaller, x / 10)))
    assert small.totals["gradient"] == pytest.approx(large.totals["gradient"] / 10)
    for name in ("relative_gradient", "relative_curvature", "straightness", "angle"):
        assert small.totals[name] == pytest.approx(large.totals[name], rel=1e-5)
    assert np.allclose(small.stages[0].coordinates, large.stages[0].coordinates, atol=2e-5)


def test_where_the_flow_is_skipped_a_stage_begins_with_its_own_first_point():
    found = fp.flow_paths(network(), batches(), across="skip")
    assert [stage.points for stage in found.stages] == [
        ("conv1", "layer1.0", "layer1.1"),
        ("layer2.0", "layer2.1"),
        ("layer3.0", "layer3.1"),
    ]
    assert not any(stage.carried for stage in found.stages)
    assert [stage.straightness is None for stage in found.stages] == [False, True, True]


def test_a_plain_network_is_cut_where_its_shape_changes():
    torch.manual_seed(0)
    found = fp.flow_paths(PlainNet((2, 3), hidden=False, width=4), [torch.randn(6, 3, 8, 8)])
    assert [(stage.shape, len(stage.points), stage.carried) for stage in found.stages] == [
        ((4, 8, 8), 2, False),
        ((8, 4, 4), 4, True),
    ]
    assert found.stages[0].labels == (None,) and found.stages[0].counts == (6,)


def test_the_first_ten_classes_are_followed_unless_some_are_named():
    model = Walk([1.0, 2.0], [2.0, 4.0])
    x, labels = torch.rand(24, 2, 1, 1), torch.arange(24).flip(0) % 12
    names = ["stem", "moves.0", "moves.1"]
    pairs = list(zip(x.split(8), labels.split(8), strict=True))
    assert fp.flow_paths(model, pairs, points=names).stages[0].labels == (0, 1, *range(4, 12))  # 4 to 11 come first
    named = fp.flow_paths(model, pairs, points=names, classes=[7, 1]).stages[0]
    assert named.labels == (1, 7) and named.counts == (2, 2) and named.images == 24
    with pytest.raises(DataError, match="no image of class 12"):
        fp.flow_paths(model, pairs, points=names, classes=[7, 12])


def test_what_cannot_be_followed_is_said():
    model = network()
    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(DataError, match="one integer label an image"):
        fp.flow_paths(model, [(x, torch.rand(4))])
    with pytest.raises(DataError, match="no batch"):
        fp.flow_paths(model, [])
    with pytest.raises(DataError, match="images of different sizes"):
        fp.flow_paths(model, [x, torch.randn(4, 3, 16, 16)])
    with pytest.raises(ModelError, match="no two neighbouring points can be compared"):
        fp.flow_paths(nn.Conv2d(3, 4, 3), [x])
    with pytest.raises(ModelError, match=r"no two neighbouring points can be compared .*narrower"):
        fp.flow_paths(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), [x])
    with pytest.raises(UnknownNameError, match="did you mean 'project'"):
        fp.flow_paths(model, [x], across="projekt")
    assert not model._forward_hooks and not model._forward_pre_hooks and model.training


def test_the_dictionary_is_json_of_the_same_content():
    found = fp.flow_paths(network(), batches())
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content == found.as_dict()
    assert [stage["straightness"] for stage in content["stages"]] == [stage.straightness for stage in found.stages]
    assert content["points"][1]["name"] == "layer1.0" and "layer1.1 ... layer2.1 (8x4x4)" in str(found)


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("timm:vit_tiny_patch16_224", {"img_size": 32}, {(5, 192)}),
        ("torchvision:densenet121", {}, {(32, 8, 8), (128, 8, 8)}),
        ("timm:convnext_atto", {}, {(40, 8, 8), (320, 1, 1)}),
    ],
)
def test_streams_of_tokens_and_branching_networks_have_paths(name, options, shapes):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    found = fp.flow_paths(fp.models.create(name, **options), [(torch.randn(3, 3, 32, 32), torch.tensor([1, 0, 1]))])
    assert shapes <= {stage.shape for stage in found.stages}
    for stage in found.stages:
        assert stage.labels == (0, 1) and 0 < stage.visible <= 1 and 0 < stage.net <= stage.length * (1 + 1e-6)
        assert stage.straightness is None or 0 < stage.straightness <= 1 + 1e-6
