"""The flow finds a sensible trajectory in other people's networks, and its penalty reaches what it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from flowprune import models
from flowprune.cli import app
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.maps.links import links_of

timm = pytest.importorskip("timm")
torch.set_num_threads(1)

ARCHITECTURES = [
    "torchvision:alexnet@64",
    "torchvision:vgg11_bn@32",
    "torchvision:resnet18@32",
    "torchvision:squeezenet1_0@64",
    "torchvision:densenet121@64",
    "torchvision:googlenet@64",
    "torchvision:inception_v3@299",
    "torchvision:shufflenet_v2_x1_0@64",
    "torchvision:mobilenet_v2@32",
    "torchvision:mobilenet_v3_large@32",
    "torchvision:mnasnet1_0@32",
    "torchvision:efficientnet_b0@32",
    "torchvision:regnet_y_400mf@32",
    "torchvision:convnext_tiny@32",
    "torchvision:resnext50_32x4d@32",
    "torchvision:swin_t@64",
    "timm:test_vit@160",
    "timm:test_vit_relpos@160",
    "timm:deit_tiny_patch16_224@224",
    "timm:vit_tiny_r_s16_p8_224@224",
    "timm:test_byobnet@64",
    "timm:test_convnext@64",
    "timm:test_efficientnet@64",
    "timm:test_nfnet@64",
    "timm:test_resnet@64",
    "timm:ghostnet_050@64",
    "timm:mobilenetv3_small_050@64",
    "timm:regnetx_002@64",
    "timm:resnetv2_18@64",
    "timm:selecsls42@64",
    "timm:legacy_seresnet18@64",
    "timm:skresnet18@64",
    "timm:starnet_s050@64",
    "timm:ese_vovnet19b_slim_dw@64",
    "timm:repvit_m1@64",
    "timm:res2next50@64",
    "timm:resnest14d@64",
    "timm:dla46x_c@64",
    "timm:dpn48b@64",
    "timm:hrnet_w18_small@64",
    "timm:fasternet_t0@64",
    "timm:cs3darknet_focus_s@64",
    "timm:cspnext_tiny@64",
    "timm:inception_next_atto@64",
    "timm:poolformerv2_s12@64",
    "timm:mobilevit_xxs@64",
    "timm:test_coatnet@160",
    "timm:test_maxvit@160",
    "timm:swin_tiny_patch4_window7_224@224",
    "timm:nest_tiny@224",
    "timm:mixer_s32_224@224",
    "timm:resmlp_12_224@224",
    "timm:efficientformer_l1@224",
    "timm:xcit_nano_12_p16_224@224",
    "timm:test_mambaout@96",
    "timm:pvt_v2_b0@64",
    "timm:edgenext_xx_small@64",
    "timm:legacy_xception@96",
]


def blocks(stem: str, pattern: str, *counts: int, first: int = 1) -> list[str]:
    stages = enumerate(counts, start=first)
    return [stem, *(pattern.format(stage, block) for stage, count in stages for block in range(count))]


CHOSEN = {
    # Plain networks: every convolution after its activation.
    "torchvision:alexnet@64": ["features.0", "features.3", "features.6", "features.8", "features.10"],
    "torchvision:vgg11_bn@32": [f"features.{number}" for number in (0, 4, 8, 11, 15, 18, 22, 25)],
    # Residual networks: what enters the first block, then every block's output; no gate, no shortcut, no classifier.
    "torchvision:resnet18@32": blocks("conv1", "layer{}.{}", 2, 2, 2, 2),
    "torchvision:resnext50_32x4d@32": blocks("conv1", "layer{}.{}", 3, 4, 6, 3),
    "timm:legacy_seresnet18@64": blocks("layer0.conv1", "layer{}.{}", 2, 2, 2, 2),
    "timm:skresnet18@64": blocks("conv1", "layer{}.{}", 2, 2, 2, 2),
    "timm:resnetv2_18@64": blocks("stem.conv", "stages.{}.blocks.{}", 2, 2, 2, 2, first=0),
    "torchvision:regnet_y_400mf@32": [
        "stem.0",
        *(
            f"trunk_output.block{s}.block{s}-{b}"
            for s, n in zip((1, 2, 3, 4), (1, 3, 6, 6), strict=True)
            for b in range(n)
        ),
    ],
    # A token stream: the patches, then after every attention and every perceptron.
    "timm:test_vit@160": ["patch_embed.proj", *(f"blocks.{b}{end}" for b in range(6) for end in ("", "#2"))],
    "timm:deit_tiny_patch16_224@224": [
        "patch_embed.proj",
        *(f"blocks.{b}{end}" for b in range(12) for end in ("", "#2")),
    ],
    # Windows leave the stream's tensor to no module between attention and perceptron, but a view of it.
    "timm:swin_tiny_patch4_window7_224@224": [
        "patch_embed.proj",
        *(f"layers.{s}.blocks.{b}{end}" for s, n in enumerate((2, 2, 6, 2)) for b in range(n) for end in ("", "#2")),
    ],
    "timm:test_maxvit@160": [
        "stem.conv2",
        *(
            f"stages.{s}.blocks.0.{part}"
            for s in range(4)
            for part in ("conv", "attn_block", "attn_block#2", "attn_grid", "attn_grid#2")
        ),
    ],
    # Convolutions between stages are plain parts.
    "timm:test_convnext@64": [
        "stem.0",
        "stages.0.blocks.0",
        *(f"stages.1.{end}" for end in ("downsample.1", "blocks.0", "blocks.1")),
        *(f"stages.2.{end}" for end in ("downsample.1", "blocks.0", "blocks.1", "blocks.2", "blocks.3")),
        *(f"stages.3.{end}" for end in ("downsample.1", "blocks.0", "blocks.1")),
    ],
}


def flow_and_model(case: str, **options):
    name, _, side = case.partition("@")
    torch.manual_seed(0)
    model = models.create(name)
    x = torch.randn(2, 3, int(side), int(side))
    return FeatureFlow(model, 1.0, **options, inputs=x), model, x


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_a_penalty_is_finite_and_reaches_every_weight_before_a_point(case):
    flow, model, x = flow_and_model(case, across="project")
    model(x)
    (forward,) = flow._recorder.take()
    shapes = [None if feature is None else feature.shape for feature in forward.features]
    links, _ = links_of(flow._found(), shapes)
    ends = {index for link in links for index in (link.index, link.index - 1)}
    assert len(ends) >= 2
    features = [forward.features[index] for index in sorted(ends)]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    reached = torch.autograd.grad(sum(f.sum() for f in features), weights, retain_graph=True, allow_unused=True)
    flow._recorder.tape.forwards.append(forward)
    penalty = flow.penalty()
    assert torch.isfinite(penalty) and penalty > 0
    pulled = torch.autograd.grad(penalty, weights, allow_unused=True)
    for ours, theirs in zip(pulled, reached, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or bool(torch.isfinite(ours).all())


@pytest.mark.parametrize("case", CHOSEN)
def test_the_points_are_those_a_person_would_choose(case):
    flow, _, _ = flow_and_model(case)
    assert [point.name for point in flow.points] == CHOSEN[case]
    assert {point.flow for point in flow.points} == {0}


def test_densenet_has_a_trajectory_of_growth_and_one_of_bottlenecks_in_every_block():
    flow, _, _ = flow_and_model("torchvision:densenet121@64")
    lines: dict[int, list[str]] = {}
    for point in flow.points:
        lines.setdefault(point.flow, []).append(point.name)
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        start = f"features.denseblock{block}.denselayer"
        growth = [f"{start}{layer}.conv2" for layer in range(2, layers + 1)]
        narrow = [f"{start}{layer}.conv1" for layer in range(2, layers + 1)]
        assert any([name for name in line if name in growth] == growth for line in lines.values())
        assert any([name for name in line if name in narrow] == narrow for line in lines.values())
        assert not any(set(growth) & set(line) and set(narrow) & set(line) for line in lines.values())


def test_parallel_branches_are_no_neighbours():
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right, self.end = (torch.nn.Conv2d(3, 3, 1) for _ in range(4))
            self.act = torch.nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.end(self.act(self.left(x)) * self.act(self.right(x)))

    flow = FeatureFlow(Branching(), 1.0, inputs=torch.randn(1, 3, 4, 4))
    assert [(point.name, point.flow) for point in flow.points][:2] == [("stem", 0), ("left", 0)]
    assert next(point.flow for point in flow.points if point.name == "right") == 1


def test_print_says_what_was_chosen_and_what_was_not():
    flow, _, _ = flow_and_model("torchvision:resnet18@32")
    text = str(flow)
    assert text.splitlines()[0] == "feature flow: 9 points"
    assert "layer4.1" in text and "left out: layer1.1 -> layer2.0: the shape changes" in text
    branching, _, _ = flow_and_model("torchvision:densenet121@64")
    assert "trajectory 2" in str(branching)


def test_the_command_shows_the_points():
    done = CliRunner().invoke(app, ["explain", "--flow", "resnet20", "--input", "3x16x16"])
    assert done.exit_code == 0 and done.output.startswith("feature flow: 10 points\n") and "layer3.2" in done.output
