"""Products of tensors in a module that has parameters of its own, of any dimension: the logit scale of every CLIP, above all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn

from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune


class TwoTowers(nn.Module):
    """Pictures and texts, each encoded, then multiplied at a temperature."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.full(shape, 2.0))
        self.picture = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU())
        self.text = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 8))
        self.project = nn.Linear(12, 8)

    def forward(self, picture: Tensor, text: Tensor) -> Tensor:
        left, right = self.project(self.picture(picture).mean((2, 3))), self.text(text)
        return self.logit_scale.exp() * (left @ right.t())


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 3), (1, 3, 3)], ids=str)
def test_a_product_beside_a_parameter_of_any_dimension(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = TwoTowers(shape).double()
    inputs = (torch.randn(3, 3, 8, 8).double(), torch.randn(3, 6).double())
    made = plan(model, inputs, importance=L2(), channels=0.5)
    small, twin = prune(model, made), silenced_twin(model, made)
    assert largest_difference(small(*inputs), twin(*inputs)) < 1e-10
    (product,) = [layer for layer in made.layers if layer.layer == ""]
    assert product.channels == (0, 0), "what only multiplies makes no channels, whatever lies beside"
    assert product.params == (model.logit_scale.numel(),) * 2 and product.macs == (3 * 8, 3 * 4)
    assert made.filters_removed == 16 // 2 + 12 // 2 + 20 // 2 + 2 * 8 // 2
    assert str(made)


def test_a_kernel_that_is_no_layer_s_still_counts_its_filters() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias_of_all, self.kernel = nn.Parameter(torch.ones(())), nn.Parameter(torch.randn(3, 10, 3, 3))
            self.last = nn.Conv2d(10, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(nn.functional.conv_transpose2d(x, self.kernel) + self.bias_of_all))

    made = plan(Transposed(), torch.randn(2, 3, 8, 8), importance=L2(), channels=0.5)
    assert {layer.layer: layer.channels for layer in made.layers} == {"kernel": (10, 5), "last": (2, 2)}
    assert {layer.layer: layer.params[0] for layer in made.layers} == {"kernel": 3 * 10 * 9, "last": 2 * 10 * 9 + 2}


def test_clip_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 50, "max_position_embeddings": 8},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    model: Any = randomized(transformers.CLIPModel(config).double().eval())
    assert model.logit_scale.dim() == 0
    inputs = {
        "input_ids": torch.randint(1, 49, (2, 8), generator=torch.Generator().manual_seed(1)),
        "pixel_values": torch.randn(2, 3, 16, 16).double(),
    }
    made = plan(model, inputs, importance=L2(), channels=0.5)
    small, twin = prune(model, made), silenced_twin(copy.deepcopy(model), made)
    assert made.filters_removed > 100
    with torch.no_grad():
        assert largest_difference(small(**inputs).logits_per_image, twin(**inputs).logits_per_image) < 1e-10
