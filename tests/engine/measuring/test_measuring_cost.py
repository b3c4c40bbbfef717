"""Counts that are known exactly, and counts written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from flowprune.engine.measuring import measure
from flowprune.errors import ModelError
from flowprune.models import create


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("resnet20", 40_551_040, 269_722),
        ("resnet56", 125_485_696, 853_018),
        ("resnet110", 252_887_680, 1_727_962),
        ("vgg16", 313_463_808, 14_987_722),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_networks_of_the_literature_count_as_published(name, macs, params, batch):
    found = measure(create(name), torch.zeros(batch, 3, 32, 32))
    assert (found.macs, found.params) == (macs, params)
    assert sum(row.macs for row in found.layers) == macs
    assert sum(row.params for row in found.layers) == params


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 2, 2, stride=2, bias=False)
        self.head = nn.Linear(2, 5)
        self.scale = nn.Parameter(torch.ones(5, 5))
        self.unused = nn.Linear(3, 3)

    def forward(self, x, *, bias=None):
        y = self.up(self.norm(self.conv(x))).mean((2, 3))
        y = self.head(y) @ self.scale
        return y if bias is None else y + bias


def test_each_layer_counts_its_own_products_and_parameters():
    found = measure(Small(), torch.zeros(2, 4, 8, 8))
    rows = {row.layer: (row.kind, row.macs, row.params, row.output) for row in found.layers}
    conv, up = 8 * 8 * 6 * 2 * 9, 8 * 8 * 6 * 2 * 4  # positions, filters, channels a group, kernel
    assert rows == {
        "": ("Small", 5 * 5, 25, (5,)),
        "conv": ("Conv2d", conv, 6 * 2 * 9 + 6, (6, 8, 8)),
        "norm": ("BatchNorm2d", 0, 12, (6, 8, 8)),
        "up": ("ConvTranspose2d", up, 6 * 2 * 4, (2, 16, 16)),
        "head": ("Linear", 10, 15, (5,)),
        "unused": ("Linear", 0, 12, None),
    }
    assert found.macs == conv + up + 10 + 25


def test_inputs_may_be_a_tensor_a_tuple_or_a_dictionary():
    model, x = Small(), torch.zeros(2, 4, 8, 8)
    assert measure(model, x) == measure(model, (x,)) == measure(model, {"x": x, "bias": torch.zeros(5)})


def test_shared_parameters_count_once_and_repeated_calls_each_time():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(self.first(x)))

    found = measure(Twice(), torch.zeros(1, 4))
    assert (found.macs, found.params) == (48, 16)
    assert [(row.macs, row.params) for row in found.layers] == [(32, 16), (16, 0)]


def test_attention_is_counted_although_evaluation_has_a_fused_kernel():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    tokens = 6
    projections, mlp, attention = 4 * tokens * 8 * 8, 2 * tokens * 8 * 16, 2 * tokens * tokens * 8
    assert measure(layer, torch.zeros(3, tokens, 8)).macs == projections + mlp + attention


def test_a_forward_that_needs_real_numbers_is_counted_too():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(4, 1), nn.Linear(4, 9)

        def forward(self, x):
            return self.large(x) if x.sum().item() > 0 else self.small(x)

    assert measure(Branching(), torch.ones(2, 4)).macs == 36
    assert measure(Branching(), -torch.ones(2, 4)).macs == 4


@pytest.mark.parametrize("needs_data", [False, True])
def test_the_model_and_the_random_state_stay_as_they_were(needs_data):
    class Noisy(Small):
        def forward(self, x):
            if needs_data:
                assert float(x.sum()) == 0
            return super().forward(x) + torch.rand(5, device=x.device)

    model = Noisy().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measure(model, torch.zeros(2, 4, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_wrong_input_is_one_clear_error():
    with pytest.raises(ModelError, match="forward of Small raised"):
        measure(Small(), torch.zeros(2, 3, 8, 8))


def test_products_with_weights_that_are_zero_are_not_effective():
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model.conv.weight[:3, 0] = 0  # half of what the first group's filters read
        model.up.weight[5] = 0
        model.head.weight[1:, 0] = 0
        model.conv.bias.zero_()  # no product of theirs
        model.head.bias.zero_()
        model.scale[0] = 0
    found = measure(model, torch.zeros(2, 4, 8, 8))
    rows = {row.layer: (row.effective_macs, row.nonzero) for row in found.layers}
    assert rows["conv"] == (8 * 8 * 6 * 2 * 9 * 3 // 4, 6 * 2 * 9 * 3 // 4)
    assert rows["up"] == (8 * 8 * 6 * 2 * 4 * 5 // 6, 5 * 2 * 4)
    assert rows["head"] == (6, 6) and rows[""] == (20, 20)
    assert found.effective_macs == sum(row.effective_macs for row in found.layers) < found.macs
    assert found.nonzero == sum(int(p.count_nonzero()) for p in model.parameters())


@pytest.mark.parametrize("kind", ["attention", "recurrent reading", "half"])
def test_each_weight_counts_where_it_is_used_also_as_a_slice_of_a_parameter(kind):
    torch.manual_seed(0)
    if kind == "attention":
        model, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(1, 5, 8)
        with torch.no_grad():
            model.in_proj_weight[8:16] = 0  # the keys'; queries and keys are read apart from the values
        inputs = (x, x[:, :3], x[:, :3])
        found = measure(model, inputs)
        assert found.macs - found.effective_macs == 3 * 8 * 8
    elif kind == "half":
        model = nn.Linear(4, 6, dtype=torch.bfloat16)
        with torch.no_grad():
            model.weight[2] = 0
        found = measure(model, torch.zeros(1, 4, dtype=torch.bfloat16))
        assert (found.macs, found.effective_macs, found.bytes) == (24, 20, 2 * 30)
    else:

        class Slices(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.flat = nn.Parameter(torch.randn(50)[10:])  # begins inside a storage

            def forward(self, x):
                return (x @ self.flat[:20].view(4, 5)) @ self.flat[20:].view(5, 4) * self.flat.sum()

        model = Slices()
        with torch.no_grad():
            model.flat[25:30] = 0
        found = measure(model, torch.zeros(3, 4))
        assert (found.macs, found.effective_macs, found.nonzero) == (40, 35, 35)


def test_a_model_that_runs_on_numbers_alone_is_counted_alike_and_one_without_numbers_as_whole():
    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.head(x) if float(x.sum()) >= 0 else x

    model = Checks()
    with torch.no_grad():
        model.head.weight[0] = 0
    found = measure(model, torch.ones(1, 4))
    assert (found.macs, found.effective_macs, found.nonzero) == (8, 4, 4)
    empty = measure(nn.Linear(4, 2, device="meta"), torch.zeros(1, 4))
    assert (empty.effective_macs, empty.nonzero) == (8, 10)


def test_a_replacement_says_what_it_comes_to():
    from flowprune.methods.replacements import LinearExpansion

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    wide = nn.Sequential(LinearExpansion().replace(plain[0], expansion=2), nn.ReLU(), plain[2])
    x = torch.zeros(2, 3, 5, 5)
    dense, found = measure(plain, x), measure(wide, x)
    assert found.macs > dense.macs == found.effective_macs == dense.effective_macs
    rows = {row.layer: row.effective_macs for row in found.layers}
    assert rows["0"] == dense.layers[0].macs and rows["0.core"] == 0


def test_bytes_are_those_of_what_is_saved_each_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    model.register_buffer("passing", torch.zeros(100), persistent=False)
    found = measure(model, torch.zeros(1, 4))
    assert found.bytes == 4 * 16 + 4 * 4 * 4 + 8 and found.params == 16 + 8
