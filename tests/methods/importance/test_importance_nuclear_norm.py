"""Nuclear norms against singular values of the maps themselves, in float64, however the data is cut into batches."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import small_residual_network
import torch
from small_residual_network import SmallResidual, groups_of, images
from torch import nn

from flowprune.engine.coupling import CoupledGroup, FeatureMap
from flowprune.errors import DataError, FlowpruneError, ModelError, UnknownNameError
from flowprune.methods.importance import NuclearNorm
from flowprune.methods.importance._maps.map_stages import maps_at
from flowprune.methods.importance._maps.map_work import GIBIBYTE
from flowprune.methods.importance._spectra.feature_spectra import StackedSpectra, drawn_positions
from flowprune.methods.importance._spectra.threads import in_threads


class Network(SmallResidual):
    """Maps of 36 and of 1 positions; nothing is overwritten."""

    def parts(self, x):
        stem = self.stem_norm(self.stem(x)).relu()
        inner = self.inner_norm(self.inner(stem)).relu()
        end = self.end_norm(self.end(inner))
        added = (stem + end).relu()
        hidden = self.hidden(added.mean((2, 3))).relu()
        return {"stem": stem, "inner": inner, "end": end, "added": added, "hidden": hidden}

    def forward(self, x):
        return self.head(self.parts(x)["hidden"])


def build(dtype=torch.float64) -> nn.Module:
    return small_residual_network.build(1, Network, dtype)


def naive(maps: torch.Tensor, reading: str) -> np.ndarray:
    """The definition: singular values of the maps, channel by channel, in float64."""
    array = maps.detach().double().numpy()
    if array.ndim == 2:
        array = array[:, :, None, None]
    scores = []
    for channel in range(array.shape[1]):
        if reading == "stacked":
            stacked = array[:, channel].reshape(len(array), -1).T
            scores.append(np.linalg.svd(stacked, compute_uv=False).sum())
        else:
            scores.append(np.mean([np.linalg.svd(one, compute_uv=False).sum() for one in array[:, channel]]))
    return np.array(scores)


# Where a ReLU leaves a map exactly singular, Gram matrices are good to 1e-8 (the square root of float64's precision); else to 1e-9.


def unit_length(scores: np.ndarray) -> np.ndarray:
    return scores / np.sqrt((scores**2).sum())


def by_the_largest(scores: np.ndarray) -> np.ndarray:
    return scores / scores.max()


@pytest.mark.parametrize("reading", ["stacked", "mean"])
@pytest.mark.parametrize("count", [8, 36, 37, 90])  # fewer images than positions, as many, one more, many more
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_scores_are_the_sums_of_singular_values(reading, count, dtype, tolerance):
    model = build(dtype)
    x = images(count, dtype)
    groups = groups_of(model, x[:1])
    criterion = NuclearNorm([x], reading=reading, normalize="none", dtype=dtype)
    found = dict(zip(groups, criterion(model, x[:1], list(groups.values())), strict=True))
    parts = model.eval().parts(x)
    np.testing.assert_allclose(found["inner"].numpy(), naive(parts["inner"], reading), rtol=tolerance)
    np.testing.assert_allclose(found["hidden"].numpy(), naive(parts["hidden"], reading), rtol=tolerance)
    # The stem and the end of the branch are one group: the mean over its two maps, the second after the addition.
    expected = (naive(parts["stem"], reading) + naive(parts["added"], reading)) / 2
    np.testing.assert_allclose(found["stem"].numpy(), expected, rtol=tolerance)


@pytest.mark.parametrize("reading", ["stacked", "mean"])
@pytest.mark.parametrize("sizes", [[90], [10] * 9, [35, 1, 1, 53], [89, 1]])
def test_how_images_are_batched_does_not_matter(reading, sizes):
    model, x = build(), images(90)
    groups = list(groups_of(model, x[:1]).values())
    whole = NuclearNorm([x], reading=reading)(model, x[:1], groups)
    split = NuclearNorm(x.split(sizes), reading=reading)(model, x[:1], groups)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("options", "divided"), [({}, by_the_largest), ({"normalize": "l2"}, unit_length)])
def test_each_layer_is_divided_by_its_largest_score_or_as_asked(options, divided):
    model, x = build(), images(12)
    groups = groups_of(model, x[:1])
    found = dict(zip(groups, NuclearNorm([x], **options)(model, x[:1], list(groups.values())), strict=True))
    parts = model.eval().parts(x)
    np.testing.assert_allclose(found["inner"].numpy(), divided(naive(parts["inner"], "stacked")), rtol=1e-9)
    expected = (divided(naive(parts["stem"], "stacked")) + divided(naive(parts["added"], "stacked"))) / 2
    np.testing.assert_allclose(found["stem"].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("stage", ["convolution", "normalized", "activated", "added"])
def test_the_stage_decides_what_is_looked_at(stage):
    model, x = build(), images(40)
    groups = groups_of(model, x[:1])
    found = dict(
        zip(groups, NuclearNorm([x], stage=stage, normalize="none")(model, x[:1], list(groups.values())), strict=True)
    )
    model.eval()
    stem = model.parts(x)["stem"]
    convolved = model.inner(stem)
    expected = {"convolution": convolved, "normalized": model.inner_norm(convolved)}
    seen = expected.get(stage, model.parts(x)["inner"])  # nothing is added to it: the nearest earlier stage
    np.testing.assert_allclose(found["inner"].numpy(), naive(seen, "stacked"), rtol=1e-9 if stage in expected else 1e-8)


def test_the_nearest_stage_is_the_next_later_else_the_last_earlier():
    def seen(*stages):
        maps = [FeatureMap((n, 0), 1, np.arange(2)[:, None], stage, "unit") for n, stage in enumerate(stages)]
        group = CoupledGroup("unit", 2, (), tuple(maps))
        return [map.stage for map in maps_at(group, "activated")]

    assert seen("convolution", "normalized", "activated", "added") == ["activated"]
    assert seen("convolution", "normalized", "added") == ["added"]
    assert seen("convolution", "normalized") == ["normalized"]
    assert seen("convolution") == ["convolution"]


def test_a_rank_deficient_stack_is_not_drowned_in_rounding():
    model, x = build(), images(4).repeat(20, 1, 1, 1)  # 80 images of rank 4 on 36 positions
    groups = groups_of(model, x[:1])
    found = NuclearNorm([x], normalize="none")(model, x[:1], [groups["inner"]])[0]
    np.testing.assert_allclose(found.numpy(), naive(model.eval().parts(x)["inner"], "stacked"), rtol=1e-6)


@pytest.mark.parametrize("count", [20, 90])
def test_a_small_memory_limit_means_more_passes_and_the_same_scores(count, monkeypatch):
    import flowprune.methods.importance.nuclear_norm as module

    model, x = build(), images(count)
    groups = list(groups_of(model, x[:1]).values())
    unlimited = NuclearNorm([x])(model, x[:1], groups)
    runs = []
    real = module.watch_maps
    monkeypatch.setattr(module, "watch_maps", lambda *arguments: runs.append(1) or real(*arguments))
    memory = (x.nbytes + 4 * 36 * 36 * 8) / GIBIBYTE  # the inputs and a few channels
    limited = NuclearNorm((batch for batch in x.split(10)), memory=memory)(model, x[:1], groups)
    assert len(runs) >= 3 * count / 10
    for a, b in zip(unlimited, limited, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=0)


@pytest.mark.parametrize("expected", [None, 10, 200])
@pytest.mark.parametrize("sizes", [[10], [10, 15], [10, 10, 16], [10, 10, 17], [50], [10, 90], [30, 30, 30, 30]])
def test_the_kept_state_never_grows_beyond_one_gram_matrix_a_channel(sizes, expected, monkeypatch):
    """Whatever number of images was announced, and however many come."""
    maps = torch.randn(sum(sizes), 3, 6, 6, dtype=torch.float64).relu()
    taken = []
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kw: taken.append(real(*size, **kw)) or taken[-1])
    spectra = StackedSpectra(torch.float64, expected)
    for part in maps.split(sizes):
        spectra.add(part)
    assert max(tensor.numel() for tensor in taken) <= 3 * 36 * 36
    monkeypatch.undo()
    np.testing.assert_allclose(spectra.scores().numpy(), naive(maps, "stacked"), rtol=1e-8)


def test_fewer_positions_are_the_same_ones_for_every_image_and_scaled():
    model, x = build(), images(50)
    groups = groups_of(model, x[:1])
    few = NuclearNorm(x.split(20), positions=9, normalize="none")(model, x[:1], [groups["inner"]])[0]
    maps = model.eval().parts(x)["inner"].detach().flatten(2)[:, :, drawn_positions(36, 9)]
    expected = 2 * torch.linalg.svdvals(maps.transpose(0, 1)).sum(1)
    torch.testing.assert_close(few, expected, rtol=1e-8, atol=0)
    every = NuclearNorm([x], positions=36)(model, x[:1], [groups["inner"]])[0]
    assert torch.equal(every, NuclearNorm([x])(model, x[:1], [groups["inner"]])[0])
    with pytest.raises(FlowpruneError, match="whole maps"):
        NuclearNorm([x], positions=9, reading="mean")


@pytest.mark.parametrize("count", [3, 10, 13, 20])
def test_only_the_first_images_count(count):
    model, x = build(), images(20)
    groups = list(groups_of(model, x[:1]).values())
    read = []

    def generator():
        for batch in x.split(10):
            read.append(len(batch))
            yield batch, torch.zeros(len(batch))

    found = NuclearNorm(generator(), images=count)(model, x[:1], groups)
    assert sum(read) == (10 if count <= 10 else 20)
    for a, b in zip(found, NuclearNorm([x[:count]])(model, x[:1], groups), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=0)
    with pytest.raises(FlowpruneError, match="images=0"):
        NuclearNorm([x], images=0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_and_are_given_back(threads):
    before = torch.get_num_threads()
    model, x = build(), images(50)
    groups = list(groups_of(model, x[:1]).values())
    expected = NuclearNorm([x])(model, x[:1], groups)
    try:
        torch.set_num_threads(threads)
        for reading in ("stacked", "mean"):
            found = NuclearNorm([x], reading=reading)(model, x[:1], groups)
            assert torch.get_num_threads() == threads
            if reading == "stacked":
                assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(found, expected, strict=True))
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda item: 1 / item, [1, 0, 2])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_example_inputs_of_another_batch_size_find_the_same_maps():
    """One image's transposed map is a view, several images' is a copy: one operator more, and no map is missed."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(2), Tokens(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    model, x = model.double(), images(5)
    groups = groups_of(model, x[:1])
    (found,) = NuclearNorm([x], normalize="none")(model, x[:1], [groups["3"]])
    tokens = model[:5](x).detach()
    np.testing.assert_allclose(found.numpy(), tokens.norm(dim=0).numpy(), rtol=1e-9)


class Tokens(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).reshape(-1, x.shape[1])


def test_a_limit_that_cannot_be_kept_is_refused_with_advice():
    model, x = build(), images(90)
    groups = list(groups_of(model, x[:1]).values())
    with pytest.raises(DataError, match=r"inputs alone.*raise memory="):
        NuclearNorm([x], memory=(x.nbytes - 1) / GIBIBYTE)(model, x[:1], groups)
    with pytest.raises(DataError, match=r"one channel of the feature map of 'stem'.*raise memory="):
        NuclearNorm([x], memory=(x.nbytes + 100) / GIBIBYTE)(model, x[:1], groups)
    assert len(NuclearNorm([x], memory=1e-9, reading="mean")(model, x[:1], groups)) == len(groups)


@pytest.mark.parametrize("reading", ["stacked", "mean"])
def test_data_is_read_once_and_pairs_and_targets_are_understood(reading):
    model, x = build(), images(9)
    groups = list(groups_of(model, x[:1]).values())
    reads = []

    def generator():
        for batch in x.split(3):
            reads.append(len(batch))
            yield batch, torch.zeros(len(batch))

    data = generator()
    criterion = NuclearNorm(data, reading=reading)
    found = criterion(model, x[:1], groups)
    assert reads == [3, 3, 3]
    for a, b in zip(found, NuclearNorm([{"x": x}], reading=reading)(model, x[:1], groups), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=0)
    with pytest.raises(DataError, match="read only once"):
        criterion(model, x[:1], groups)


def test_the_model_and_the_random_state_stay_as_they_were():
    model, x = build(), images(9)
    model.train()
    model.inner_norm.eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    NuclearNorm([x])(model, x[:1], list(groups_of(model, x[:1]).values()))
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_bad_input_is_one_clear_error():
    model, x = build(), images(4)
    groups = list(groups_of(model, x[:1]).values())
    with pytest.raises(DataError, match="no batch"):
        NuclearNorm([])(model, x[:1], groups)
    with pytest.raises(DataError, match="not list of str"):
        NuclearNorm([["cat"]])(model, x[:1], groups)
    with pytest.raises(DataError, match="one resolution"):
        NuclearNorm([x, images(4, size=8)])(model, x[:1], groups)
    with pytest.raises(UnknownNameError, match="'stacked'"):
        NuclearNorm([x], reading="stackd")
    with pytest.raises(UnknownNameError, match="'activated'"):
        NuclearNorm([x], stage="activate")
    with pytest.raises(FlowpruneError, match="positive"):
        NuclearNorm([x], memory=0)
    with torch.no_grad():
        model.inner.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="'inner'"):
        NuclearNorm([x])(model, x[:1], groups)


def test_a_group_without_maps_is_kept():
    model, x = build(), images(4)
    (found,) = NuclearNorm([x])(model, x[:1], [CoupledGroup("raw", 3, (), ())])
    assert bool(torch.isinf(found).all())


@pytest.mark.parametrize("failing", [{torch.float32}, {torch.float32, torch.float64}])
@pytest.mark.parametrize("silently", [False, True])
def test_a_decomposition_that_does_not_converge_is_done_otherwise(monkeypatch, failing, silently):
    real = torch.linalg.eigvalsh

    def unreliable(matrix):
        values = real(matrix)
        if matrix.dtype in failing and not silently:
            raise torch.linalg.LinAlgError("failed to converge")
        if matrix.dtype in failing:
            values[1:3, 0] = float("nan")
        return values

    model, x = build(torch.float32), images(90, torch.float32)
    groups = groups_of(model, x[:1])
    monkeypatch.setattr(torch.linalg, "eigvalsh", unreliable)
    found = NuclearNorm([x], normalize="none", dtype=torch.float32)(model, x[:1], [groups["inner"]])[0]
    np.testing.assert_allclose(found.numpy(), naive(model.eval().parts(x)["inner"], "stacked"), rtol=1e-3)
