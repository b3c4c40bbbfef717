"""The flow under autocast, channels_last, accumulation, compilers, DDP, copies, and forwards of every kind."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.models.resnet import CifarResNet
from flowprune.models.vgg import PlainNet

torch.set_num_threads(1)


def network(**options) -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(1, width=4, **options)


def images(count: int = 4, seed: int = 1, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def by_hand(model: CifarResNet, x: torch.Tensor) -> torch.Tensor:
    """sum |d| with mean reduction, skipping where shapes differ."""
    features = [functional.relu(model.bn1(model.conv1(x)))]
    for block in [*model.layer1, *model.layer2, *model.layer3]:
        features.append(block(features[-1]))
    return sum((z.float() - y.float()).abs().mean() for y, z in itertools.pairwise(features) if y.shape == z.shape)


def deep(**options) -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(2, width=4, **options)


def test_autocast_sums_in_float32():
    model = deep().eval()
    flow = FeatureFlow(model, gradient=1.0, across="skip")
    x = images(16, side=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        penalty = flow.penalty()
        expected = by_hand(model, x)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {point.name for point in flow.points} == {point.name for point in FeatureFlow(model, 1.0, inputs=x).points}
    penalty.backward()


def test_a_gradient_scaler_goes_over_the_observed_sum():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    flow = FeatureFlow(model, gradient="5%")
    task = []
    for seed in range(11):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(images(seed=seed)), torch.tensor([0, 1, 2, 3]))
            task.append(loss.item())
            total = loss + flow.penalty()
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
    assert flow.state_dict()["task_loss"] == pytest.approx(sum(task[:10]), rel=1e-12)
    assert flow.coefficients is not None


def test_half_precision_models_are_summed_in_float32():
    model = network().to(torch.bfloat16).eval()
    flow = FeatureFlow(model, gradient=1.0, reduction="sum")
    model(images(64).to(torch.bfloat16))
    assert flow.penalty().dtype == torch.float32


def test_channels_last_changes_nothing():
    model = network().double().eval()
    x = images().double()
    flow = FeatureFlow(model, gradient=1.0, curvature=1.0, norm=2)
    model(x)
    usual = flow.penalty()
    model.to(memory_format=torch.channels_last)
    model(x.to(memory_format=torch.channels_last))
    assert flow.penalty().item() == pytest.approx(usual.item(), rel=1e-12)


def test_gradient_accumulation_adds_up():
    x = images(8)
    whole, parts = network().double().eval(), network().double().eval()
    with FeatureFlow(whole, gradient=1.0) as flow:
        (whole(x.double()).sum() / 8 + flow.penalty()).backward()
    with FeatureFlow(parts, gradient=1.0) as flow:
        for part in x.double().split(2):
            ((parts(part).sum() / 2 + flow.penalty()) / 4).backward()
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_several_forwards_count_as_one_batch():
    model = network().double().eval()
    x = images(7).double()
    flow = FeatureFlow(model, gradient=1.0, curvature=1.0)
    model(x)
    together = flow.penalty().item()
    # In evaluation mode only the last forward counts; batch norm in evaluation mode makes the split comparable.
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model(x[:2])
    model(x[2:])
    assert flow.penalty().item() == pytest.approx(together, rel=1e-12)
    with pytest.raises(ModelError, match="no forward with gradients"):
        flow.penalty()


def test_in_evaluation_mode_the_last_forward_counts():
    model = network().eval()
    flow = FeatureFlow(model, gradient=1.0)
    model(images(2, seed=5))
    model(images(3, seed=6))
    both = flow.penalty().item()
    model(images(3, seed=6))
    assert flow.penalty().item() == both


def test_forwards_that_are_never_penalised_do_not_pile_up():
    model = network()
    flow = FeatureFlow(model, gradient=1.0)
    kept = []
    for seed in range(5):
        out = model(images(seed=seed))
        kept.append(weakref.ref(flow._recorder.tape.forwards[-1].features[0]))
        out.sum().backward()
        del out
    with torch.no_grad():
        model(images(seed=9))
    model(images(seed=10))
    gc.collect()
    assert len(flow._recorder.tape.forwards) == 1
    assert [reference() for reference in kept] == [None] * 5


def test_a_backward_pass_before_the_penalty_does_not_lose_it():
    model = network().eval()
    flow = FeatureFlow(model, gradient=1.0)
    out = model(images())
    torch.autograd.grad(out.sum(), list(model.parameters()), retain_graph=True)
    flow.penalty().backward()
    assert model.conv1.weight.grad.abs().sum() > 0


def test_evaluation_without_gradients_keeps_nothing():
    model = network()
    flow = FeatureFlow(model, gradient=1.0)
    model(images())
    with torch.no_grad():
        for seed in range(3):
            model.eval()(images(seed=seed))
    assert len(flow._recorder.tape.forwards) == 1
    assert all(not hook.seen for hook, _ in flow._recorder._state.hooks)
    assert flow.penalty().requires_grad
    with torch.no_grad():
        model(images())
    with pytest.raises(ModelError, match=r"outside torch\.no_grad"):
        flow.penalty()


def test_a_forward_that_raises_is_forgotten():
    model = network()
    flow = FeatureFlow(model, gradient=1.0)
    model(images())
    expected = flow.penalty().item()
    model.load_state_dict(network().state_dict())
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3, 8))
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 5, 8, 8))
    model(images())
    assert flow.penalty().item() == pytest.approx(expected, rel=1e-6)


def test_the_penalty_does_not_disturb_the_model():
    with_flow, without = network(), network()
    flow = FeatureFlow(with_flow, gradient=1.0, curvature=1.0)
    x = images()
    state = torch.get_rng_state()
    assert torch.equal(with_flow(x), without(x))
    flow.penalty().backward()
    assert torch.equal(torch.get_rng_state(), state)
    for (name, ours), theirs in zip(with_flow.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def hooks_of(model: nn.Module) -> list:
    return [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


@pytest.mark.parametrize("how", ["close", "with", "del"])
def test_hooks_leave(how):
    model = network()
    if how == "with":
        with FeatureFlow(model, gradient=1.0) as flow:
            model(images())
            assert hooks_of(model)
    else:
        flow = FeatureFlow(model, gradient=1.0)
        model(images())
        assert hooks_of(model)
        if how == "close":
            flow.close()
            flow.close()
    if how == "del":
        del flow
        gc.collect()
    else:
        with pytest.raises(ModelError, match="was closed"):
            flow.penalty()
    assert not hooks_of(model)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("ran", [False, True])
def test_copies_carry_no_live_hooks(duplicate, ran):
    model = network()
    flow = FeatureFlow(model, gradient=1.0)
    if ran:
        model(images())
        flow.penalty()
    twin = duplicate(model)
    assert all(hook.flowprune_transient for hook in hooks_of(model) + hooks_of(twin))
    twin(images(5, seed=2))
    with pytest.raises(ModelError, match="no forward"):
        flow.penalty()
    model.eval()(images(5, seed=2))
    assert torch.isfinite(flow.penalty())


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("order", ["flow, then compile", "compile, then flow", "model.compile()"])
def test_compiled_models(compiler, order):
    model = deep().double()
    plain = deep().double()
    if order == "compile, then flow":
        running = torch.compile(model, backend="aot_eager")
        flow = FeatureFlow(running, gradient="5%", curvature=0.1)
    else:
        flow = FeatureFlow(model, gradient="5%", curvature=0.1)
        if order == "model.compile()":
            model.compile(backend="aot_eager")
            running = model
        else:
            running = torch.compile(model, backend="aot_eager")
    reference = FeatureFlow(plain, gradient="5%", curvature=0.1)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, plain)]
    y = torch.tensor([0, 1, 2, 3])
    for seed in range(13):
        losses = []
        for runner, its_flow, optimizer in zip((running, plain), (flow, reference), optimizers, strict=True):
            loss = functional.cross_entropy(runner(images(seed=seed).double()), y) + its_flow.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    with torch.no_grad():
        running.eval()(images().double())
    assert not flow._recorder.tape.forwards


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_models_are_one_graph_and_stay_it(compiler, fullgraph):
    model = deep()
    flow = FeatureFlow(model, gradient=1.0, inputs=images())
    running = torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
    torch._dynamo.utils.counters.clear()
    for seed in range(4):
        (running(images(seed=seed)).sum() + flow.penalty()).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("in_place", [False, True])
def test_several_compiled_forwards_and_a_profile_in_between(compiler, in_place):
    model, plain = deep().double(), deep().double()
    flow = FeatureFlow(model, gradient=1.0, curvature=1.0)
    reference = FeatureFlow(plain, gradient=1.0, curvature=1.0)
    if in_place:
        model.compile(backend="aot_eager")
    running = model if in_place else torch.compile(model, backend="aot_eager")
    for seed in range(3):
        for runner in (running, plain):
            runner(images(3, seed=seed).double())
            runner(images(5, seed=seed + 10).double())
        assert flow.penalty().item() == pytest.approx(reference.penalty().item(), rel=1e-10)
        ours, theirs = (f.profile([images(seed=seed).double()]) for f in (flow, reference))
        assert ours.gradient == pytest.approx(theirs.gradient, rel=1e-10)
        assert ours.curvature == pytest.approx(theirs.curvature, rel=1e-10)


@pytest.mark.parametrize("known", [False, True])
def test_compiled_forwards_that_are_never_penalised_do_not_pile_up(compiler, known):
    model = network()
    flow = FeatureFlow(model, gradient=1.0, inputs=images() if known else None)
    running = torch.compile(model, backend="aot_eager")
    for seed in range(5):
        running(images(seed=seed)).sum().backward()
    assert len(flow._recorder.tape.forwards) == 1


def test_a_flow_that_comes_after_a_compiled_forward_says_so(compiler):
    running = torch.compile(network(), backend="aot_eager")
    running(images())
    flow = FeatureFlow(running, gradient=1.0)
    running(images())
    with pytest.raises(ModelError, match="build the flow first"):
        flow.penalty()
    torch.compiler.reset()
    running(images())
    assert flow.penalty().item() > 0


def test_a_whole_compiled_step_with_the_task_loss_given(compiler):
    model, plain = network(), network()
    flow, reference = FeatureFlow(model, gradient="5%"), FeatureFlow(plain, gradient="5%")
    y = torch.tensor([0, 1, 2, 3])

    @torch.compile(backend="aot_eager")
    def step(x):
        loss = functional.cross_entropy(model(x), y)
        return loss + flow.penalty(loss)

    for seed in range(12):
        x = images(seed=seed)
        loss = functional.cross_entropy(plain(x), y)
        total = step(x)
        assert total.item() == pytest.approx((loss + reference.penalty(loss)).item(), rel=1e-5)
        total.backward()


def test_checkpointed_blocks():
    class Checkpointed(CifarResNet):
        def forward(self, x):
            x = functional.relu(self.bn1(self.conv1(x)))
            for stage in (self.layer1, self.layer2, self.layer3):
                x = torch.utils.checkpoint.checkpoint(stage, x, use_reentrant=False)
            return self.linear(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Checkpointed(2, width=4).eval()
    usual = CifarResNet(2, width=4).eval()
    usual.load_state_dict(model.state_dict())
    for net in (model, usual):
        with FeatureFlow(net, gradient=1.0) as flow:
            (net(images()).sum() + flow.penalty()).backward()
            assert all(not hook.seen for hook, _ in flow._recorder._state.hooks)
    for ours, theirs in zip(model.parameters(), usual.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_point_that_does_not_run_is_left_out():
    class Dropping(PlainNet):
        skipped = False

        def forward(self, x):
            for name, module in self.features.named_children():
                if not (self.skipped and name.endswith("1_2")):
                    x = module(x)
            return self.classifier(x.mean((2, 3)))

    model = Dropping([3], hidden=False, width=4)
    flow = FeatureFlow(model, gradient=1.0)
    model(images())
    flow.penalty()
    assert flow.left_out == {}
    model.skipped = True
    model(images())
    with pytest.raises(ModelError, match="did not run"):
        flow.penalty()
    assert len(flow.left_out) == 2


def test_dataparallel_is_refused():
    with pytest.raises(ModelError, match="DistributedDataParallel"):
        FeatureFlow(nn.DataParallel(network()), gradient=1.0)
