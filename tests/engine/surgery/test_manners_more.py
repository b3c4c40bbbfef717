"""Manners towards models of every kind: reparametrised, frozen, tied, wrapped, with tensors that are no module's weight."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as masks
from torture_networks import IMAGE, Headed, unit

import flowprune.models as models
from flowprune.engine.allocation import Plan
from flowprune.engine.tracing import trace
from flowprune.errors import ModelError
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

IMAGES = torch.randn(2, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cut_like_its_twin(model: nn.Module, *inputs: Tensor) -> tuple[nn.Module, Plan]:
    """Half of the channels of ``model`` (float64); the small model is its twin, the model is as it was, and something left."""
    torch.manual_seed(0)
    model = randomized(model).double().eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    made = plan(model, inputs, importance=L2(), channels=0.5)
    small = prune(model, made)
    assert torch.equal(drawn, torch.get_rng_state())
    assert same_state(state, model.state_dict())
    assert modes == [module.training for module in model.modules()]
    assert trained == [parameter.requires_grad for parameter in model.parameters()]
    assert trained == [parameter.requires_grad for parameter in small.parameters()]
    with torch.no_grad():
        dense, twin, output = model(*inputs), silenced_twin(model, made)(*inputs), small(*inputs)
    assert largest_difference(output, twin) < 1e-10 * max(1.0, float(twin.abs().max()))
    assert largest_difference(dense, twin) > 1e-6
    assert made.params[1] < made.params[0] == sum(parameter.numel() for parameter in model.parameters())
    assert made.params[1] == sum(parameter.numel() for parameter in small.parameters())
    return small, made


class Plain(Headed):
    """Three units, the second made by ``wrap``."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> None:
        super().__init__(24)
        self.stem, self.inner, self.last = unit(3, 16), wrap(nn.Conv2d(16, 16, 3, padding=1)), unit(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.inner(self.stem(x))))


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
    ids=["weight_norm", "spectral_norm", "orthogonal"],
)
def test_a_parametrised_layer_stays_and_says_how_to_prune_it(wrap: Callable[[nn.Module], nn.Module]) -> None:
    _, made = cut_like_its_twin(Plain(wrap), IMAGES)
    assert "last.0.weight" in made.removed  # what lies behind it is pruned all the same
    assert not any(name.startswith("inner.parametrizations") for name in made.removed)
    assert any("torch.nn.utils.parametrize.remove_parametrizations" in reason for reason in made.frozen.values())


def test_a_parametrisation_that_is_folded_in_can_be_pruned() -> None:
    model = Plain(parametrizations.weight_norm)
    parametrize.remove_parametrizations(model.inner, "weight")
    _, made = cut_like_its_twin(model, IMAGES)
    assert made.removed["inner.weight"].keys() == {0, 1}


def test_the_old_norms_of_weights_stay_and_are_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normed, spectral = Plain(nn.utils.weight_norm), Plain(nn.utils.spectral_norm)
    _, made = cut_like_its_twin(normed, IMAGES)
    assert "torch.nn.utils.remove_weight_norm" in made.frozen["inner.weight_v"] and "last.0.weight" in made.removed
    _, made = cut_like_its_twin(spectral, IMAGES)
    assert "no coupling rule" in made.frozen["inner.weight_orig"] and "last.0.weight" in made.removed


def test_masks_of_torch_are_cut_like_their_weights() -> None:
    small, made = cut_like_its_twin(Plain(lambda layer: masks.l1_unstructured(layer, "weight", 0.3)), IMAGES)
    assert made.removed["inner.weight_orig"] == made.removed["inner.weight_mask"]
    assert small.inner.weight_mask.shape == small.inner.weight_orig.shape


def test_a_frozen_model_is_pruned_like_any_other() -> None:
    model = Plain()
    model.requires_grad_(False)
    small, made = cut_like_its_twin(model, IMAGES)
    assert made.removed.keys() == cut_like_its_twin(Plain(), IMAGES)[1].removed.keys()
    model.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_a_partly_frozen_model_trains_on_as_it_was() -> None:
    model = Plain()
    model.stem.requires_grad_(False)
    small, _ = cut_like_its_twin(model, IMAGES)
    small(IMAGES).sum().backward()
    assert {name for name, p in small.named_parameters() if p.grad is None} == {
        name for name, _ in small.named_parameters() if name.startswith("stem.")
    }


class TiedConvolutions(Plain):
    """Two layers, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(16, 16, 3, padding=1)
        self.again.weight = self.inner.weight

    def body(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.again(torch.relu(self.inner(self.stem(x))))))


class TiedEmbedding(nn.Module):
    """A small language model whose output layer is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.wide, self.narrow = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.out = nn.Linear(16, 30, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.out(x + self.narrow(functional.relu(self.wide(x))))


class TiedAutoencoder(nn.Module):
    """Decodes by the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        code = functional.relu(self.second(functional.relu(self.first(x))))
        return functional.linear(functional.linear(code, self.second.weight.t()).relu(), self.first.weight.t())


def test_tied_parameters_stay_tied() -> None:
    small, _ = cut_like_its_twin(TiedConvolutions(), IMAGES)
    assert small.again.weight is small.inner.weight and small.inner.weight.shape[0] == 8
    small, made = cut_like_its_twin(TiedEmbedding(), torch.randint(30, (2, 7)))
    assert small.out.weight is small.table.weight and tuple(small.table.weight.shape) == (30, 8)
    assert "out.weight" not in made.removed and "table.weight" in made.removed  # one tensor, one name
    small, _ = cut_like_its_twin(TiedAutoencoder(), torch.randn(3, 12, dtype=torch.float64))
    assert tuple(small.first.weight.shape) == (16, 12) and tuple(small.second.weight.shape) == (8, 16)


class Buffered(Plain):
    """Buffers that depend on the channels: saved, not saved, and written to while training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 16).view(16, 1, 1))
        self.register_buffer("offset", torch.linspace(-1, 1, 16).view(1, 16, 1, 1), persistent=False)
        self.register_buffer("centre", torch.linspace(-0.5, 0.5, 16))

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.training:
            self.centre.mul_(0.9).add_(x.mean((0, 2, 3)).detach() * 0.1)
        return super_body(self, x * self.scale + self.offset - self.centre.view(1, -1, 1, 1))


def super_body(model: Plain, x: Tensor) -> Tensor:
    return model.last(torch.relu(model.inner(x)))


def test_buffers_lose_the_channels_of_their_layer() -> None:
    model = Buffered()
    small, made = cut_like_its_twin(model, IMAGES)
    kept = [c for c in range(16) if c not in made.removed["stem.0.weight"][0]]
    for name in ("scale", "offset", "centre"):
        dimension = next(iter(made.removed[name]))
        wanted = getattr(model, name).index_select(dimension, torch.tensor(kept))
        assert torch.equal(getattr(small, name), wanted)
    before = small.centre.clone()
    small.train()(IMAGES)
    assert not torch.equal(small.centre, before)


def test_a_tensor_that_is_neither_parameter_nor_buffer_holds_its_channels_and_says_so() -> None:
    class Constant(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.constant = torch.linspace(1, 2, 16, dtype=torch.float64).view(1, 16, 1, 1)

        def body(self, x: Tensor) -> Tensor:
            return super_body(self, self.stem(x) * self.constant)

    _, made = cut_like_its_twin(Constant(), IMAGES)
    assert "not made of channels" in made.frozen["stem.0.weight"] and "last.0.weight" in made.removed


class Tokens(nn.Module):
    """Patches, a class token, positions, one transformer layer of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, dropout=0.0)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.layer(x))[:, 0])


def test_class_tokens_and_positions_lose_the_channels_of_the_stream() -> None:
    model = Tokens()
    model.layer = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
    small, made = cut_like_its_twin(model, IMAGES)
    gone = made.removed["embed.weight"][0]
    assert made.removed["token"] == made.removed["position"] == {2: gone} and len(gone) == 16
    assert tuple(small.token.shape) == (1, 1, 16) and tuple(small.position.shape) == (1, 17, 16)
    cut_like_its_twin(Tokens(), IMAGES)  # with attention too, whatever of it may leave


def test_hooks_of_the_users_own_are_part_of_the_forward_and_stay() -> None:
    model = Plain()
    seen: list[int] = []
    model.inner.register_forward_hook(lambda module, inputs, output: output * 2)
    model.stem.register_forward_pre_hook(lambda module, inputs: seen.append(1))
    small, _ = cut_like_its_twin(model, IMAGES)
    assert len(small.inner._forward_hooks) == len(model.inner._forward_hooks) == 1
    seen.clear()
    small(IMAGES)
    assert seen == [1]


def test_data_dependent_code_does_not_touch_the_models_statistics() -> None:
    """It can only be traced on real tensors, in training mode too: batch norms must not notice."""

    class Conditional(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if bool(x.mean() > 0) else -x)

    model = Conditional()
    assert trace(model, IMAGES.float()).tensors == "real"
    cut_like_its_twin(model, IMAGES)  # compares every buffer bit for bit
    assert int(model.stem[1].num_batches_tracked) == 0


def test_compiled_parts_run_as_they_are() -> None:
    class CompiledPart(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.compile(unit(16, 24), backend="eager")

    cut_like_its_twin(CompiledPart(), IMAGES)
    model = Plain()
    model.compile(backend="eager")  # in place: the model is no wrapper
    cut_like_its_twin(model, IMAGES)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed = pytest.importorskip("torch.distributed", reason="this torch is built without distributed")
    assert not distributed.is_initialized(), "another test left a process group"
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_wrappers_are_told_how_to_unwrap() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    images = torch.randn(2, 3, 32, 32)

    def refused(model: nn.Module, complaint: str) -> None:
        with pytest.raises(ModelError, match=complaint):
            plan(model, images, importance=L2(), channels=0.5)

    wrapped = nn.parallel.DistributedDataParallel(models.create("resnet8"))
    refused(wrapped, r"wrapped in DistributedDataParallel; pass model\.module")
    assert not plan(wrapped.module, images, importance=L2(), channels=0.5).is_empty
    inside = models.create("resnet8")
    inside.layer1 = nn.parallel.DistributedDataParallel(inside.layer1)
    refused(inside, r"layer1 is wrapped in DistributedDataParallel; put layer1\.module in its place")
    mesh = init_device_mesh("cpu", (1,))
    refused(fully_shard(models.create("resnet8"), mesh=mesh), "the model is sharded by FSDP")
    inside = models.create("resnet8")
    fully_shard(inside.layer1, mesh=mesh)
    refused(inside, "layer1 is sharded by FSDP; prune the unsharded model")
