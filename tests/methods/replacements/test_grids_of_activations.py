"""Batch norms folded, and activations on grids: the same function, one clip a tensor, through artifacts and cuts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.interfaces import Outcome
from flowprune.errors import FlowpruneError
from flowprune.methods.quantizers._channelwise.pact import step_of
from flowprune.methods.regularizers.bit_search import BitSearch
from flowprune.methods.replacements import restore
from flowprune.methods.replacements.pact_layers import PactConv2d

IMAGE = torch.zeros(2, 3, 8, 8)


class Mobile(nn.Module):
    """A depthwise convolution between two others, a norm behind a linear layer, and one that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.depth, self.depth_norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.one, self.other, self.shared = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.head, self.head_norm, self.last = nn.Linear(8, 7), nn.BatchNorm1d(7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = self.depth_norm(self.depth(x)).relu()
        x = (self.shared(self.one(x)) + self.shared(self.other(x))).relu().mean((2, 3))
        return self.last(self.head_norm(self.head(x)).relu())


@pytest.fixture(scope="module")
def mobile() -> nn.Module:
    torch.manual_seed(0)
    model = Mobile()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 8, 8))
        for name, one in model.named_parameters():
            if "norm" in name or "shared" in name:
                one.add_(0.3 * torch.randn_like(one))
    return model.eval()


def test_folding_leaves_the_function_and_what_two_layers_share(mobile: nn.Module) -> None:
    folded = fp.replace(mobile, IMAGE, replacement="folded_norms")
    images = torch.randn(4, 3, 8, 8)
    assert torch.allclose(folded(images), mobile(images), atol=1e-5)
    assert [name for name, one in folded.named_modules() if "Norm" in type(one).__name__] == ["shared"]
    with pytest.raises(FlowpruneError, match="one is no plain layer with a batch norm alone behind it"):
        fp.replace(mobile, IMAGE, replacement="folded_norms", names=["one"])


def test_layers_that_read_one_tensor_share_a_clip_also_when_loaded(mobile: nn.Module, tmp_path) -> None:
    clipped = fp.replace(mobile, IMAGE, replacement="pact", bits=4, clip=3.0)
    assert clipped.one.clip is clipped.other.clip and clipped.one.clip is not clipped.depth.clip
    assert [clipped.stem.grid.signed, clipped.depth.grid.signed, clipped.last.grid.signed] == [True, False, False]
    read = clipped.depth.read(torch.linspace(-1, 4, 100))
    levels = (read / step_of(clipped.depth.clip.detach(), 4)).round()
    assert levels.min() == 0 and levels.max() == 14 and len(levels.unique()) == 15
    fp.save(clipped, tmp_path / "clipped.fp")
    loaded = fp.load(tmp_path / "clipped.fp", model=Mobile()).eval()
    images = torch.randn(4, 3, 8, 8)
    assert loaded.one.clip is loaded.other.clip and loaded.stem.grid == clipped.stem.grid
    assert torch.equal(loaded(images), clipped(images))
    plain = restore(loaded, replacement="pact")
    assert not any(isinstance(one, PactConv2d) for one in plain.modules())
    assert torch.equal(plain(images), mobile(images))


def test_a_depthwise_layer_chooses_with_the_one_before_it_and_leaves_with_it(mobile: nn.Module) -> None:
    folded = fp.replace(mobile, IMAGE, replacement="folded_norms", names=["stem", "depth", "head"])
    model = fp.replace(folded, IMAGE, replacement="pact")
    with torch.no_grad():  # what two layers share is no norm of theirs: it has to go for a search
        model.shared = nn.Identity()
    search = BitSearch(model, inputs=IMAGE)
    choice = {layer.name: {part.choice for part in layer.filters} for layer in search.layers}
    assert choice["stem"] == choice["depth"] and choice["one"] == choice["other"]
    with torch.no_grad():
        for one in search.logits[:1]:
            one[0, :2] = 5.0
    search.begin(fp.Training(torch.optim.SGD(model.parameters(), lr=0.1)))
    outcome = search.finish()
    search.close()
    gone = {"stem.weight": [0, 1], "depth.weight": [0, 1]}
    assert {name: own.tolist() for name, own in outcome.leaves.items()} == gone
    small = fp.prune(model, fp.plan(model, IMAGE, outcome=Outcome(leaves=outcome.leaves)))
    images = torch.randn(4, 3, 8, 8)
    assert small.depth.weight.shape[0] == 4 and torch.allclose(small.eval()(images), model.eval()(images), atol=1e-5)


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"clip": 0.0}, {"clip": float("nan")}, {"bist": 8}])
def test_options_that_are_none_are_one_line(mobile: nn.Module, options) -> None:
    with pytest.raises(FlowpruneError) as raised:
        fp.replace(mobile, IMAGE, replacement="pact", **options)
    assert "\n" not in str(raised.value)
