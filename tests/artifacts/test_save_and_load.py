"""What an artifact promises: the same model back, in one file, without pickle; and one clear line for any other file."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from flowprune.artifacts import load, read_header, save
from flowprune.artifacts.header import digest
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import ArtifactError, OutputError
from flowprune.methods.importance import L2, Random
from flowprune.models import create
from flowprune.pruning import prune

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


class TwoLayers(nn.Module):
    """A model of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)).relu().mean((2, 3)))


class TiedLayers(nn.Module):
    """Three linear layers; the first and the third share one weight."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.inward = nn.Linear(6, 6, bias=False)
        self.middle = nn.Linear(6, 6)
        self.outward = nn.Linear(6, 6, bias=False)
        if tie:
            self.outward.weight = self.inward.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outward(self.middle(self.inward(x)).relu())


def outputs(model: nn.Module, x: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(x.to(next(model.parameters()).dtype))


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["resnet8", "vgg6"])
def test_a_model_cut_twice_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    dense = create(name, classes=7, width=8)
    once = prune(dense, IMAGES, importance=L2(), macs=0.6)
    twice = prune(once, IMAGES, importance=Random(), channels=0.7)
    save(twice, tmp_path / "small.fp")
    loaded = load(tmp_path / "small.fp")
    assert states_equal(loaded, twice)
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in dense.parameters())
    assert torch.equal(outputs(loaded), outputs(twice))
    assert len(lineage_of(loaded).plans) == 2 and lineage_of(loaded).builder == name


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    model = prune(create("resnet8", width=4), IMAGES, importance=L2(), macs=0.5)
    for name in ("a.fp", "b.fp"):
        save(model, tmp_path / name, notes={"input": [3, 16, 16], "top1": 90.0})
    assert (tmp_path / "a.fp").read_bytes() == (tmp_path / "b.fp").read_bytes()


def test_a_loaded_model_is_pruned_and_saved_again(tmp_path: Path) -> None:
    save(prune(create("resnet8", width=8), IMAGES, importance=L2(), macs=0.7), tmp_path / "a.fp")
    again = prune(load(tmp_path / "a.fp"), IMAGES, importance=L2(), macs=0.7)
    save(again, tmp_path / "b.fp")
    assert torch.equal(outputs(load(tmp_path / "b.fp")), outputs(again))


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    save(create("resnet8", width=4), tmp_path / "a.fp")
    before = torch.get_rng_state()
    load(tmp_path / "a.fp")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_of_ones_own_needs_a_fresh_instance_and_leaves_it_alone(tmp_path: Path) -> None:
    small = prune(TwoLayers(), IMAGES, importance=L2(), channels=0.5)
    save(small, tmp_path / "own.fp")
    with pytest.raises(ArtifactError, match=r"load\(path, model=\.\.\.\)"):
        load(tmp_path / "own.fp")
    fresh = TwoLayers()
    before = copy.deepcopy(fresh.state_dict())
    loaded = load(tmp_path / "own.fp", model=fresh)
    assert torch.equal(outputs(loaded), outputs(small))
    assert loaded.first.out_channels == 4 and fresh.first.out_channels == 8
    assert all(torch.equal(fresh.state_dict()[key], before[key]) for key in before)


def test_an_uncut_model_of_ones_own_comes_back_as_a_copy(tmp_path: Path) -> None:
    model, fresh = TwoLayers(), TwoLayers()
    save(model, tmp_path / "own.fp")
    loaded = load(tmp_path / "own.fp", model=fresh)
    assert loaded is not fresh and states_equal(loaded, model) and not states_equal(fresh, model)


@pytest.mark.parametrize("fresh_ties", [True, False])
def test_shared_weights_stay_shared_and_are_stored_once(fresh_ties: bool, tmp_path: Path) -> None:
    model = TiedLayers()
    save(model, tmp_path / "tied.fp")
    loaded = load(tmp_path / "tied.fp", model=TiedLayers(fresh_ties))
    assert loaded.inward.weight is loaded.outward.weight
    assert torch.equal(outputs(loaded, torch.eye(6)), outputs(model, torch.eye(6)))
    assert (tmp_path / "tied.fp").stat().st_size < 4 * (2 * 36 + 6) + 1000
    assert read_header(tmp_path / "tied.fp").shared == {"outward.weight": "inward.weight"}


def test_untied_weights_do_not_go_into_a_model_that_ties_them(tmp_path: Path) -> None:
    save(TiedLayers(tie=False), tmp_path / "untied.fp")
    with pytest.raises(ArtifactError, match="shares"):
        load(tmp_path / "untied.fp", model=TiedLayers())


def test_views_into_one_memory_are_stored_apart(tmp_path: Path) -> None:
    model = TwoLayers()
    both = torch.randn(16)
    model.norm.running_mean, model.norm.weight.data = both[:8], both[4:12]
    save(model, tmp_path / "views.fp")
    assert states_equal(load(tmp_path / "views.fp", model=TwoLayers()), model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_weights_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = create("resnet8", width=4).to(dtype)
    save(model, tmp_path / "typed.fp")
    loaded = load(tmp_path / "typed.fp")
    assert {p.dtype for p in loaded.parameters()} == {dtype} and states_equal(loaded, model)


def test_channels_last_weights_come_back_with_their_values(tmp_path: Path) -> None:
    model = create("vgg6", width=4).to(memory_format=torch.channels_last)
    save(model, tmp_path / "last.fp")
    assert states_equal(load(tmp_path / "last.fp"), model)


def test_the_header_tells_what_is_inside_without_the_weights(tmp_path: Path) -> None:
    small = prune(create("resnet8", classes=5, width=4), IMAGES, importance=L2(), macs=0.5)
    save(small, tmp_path / "a.fp", notes={"input": [3, 16, 16]})
    header = read_header(tmp_path / "a.fp")
    assert (header.builder, header.options) == ("resnet8", {"classes": 5, "width": 4})
    assert header.notes == {"input": [3, 16, 16]} and header.versions["torch"] == torch.__version__
    (plan,) = header.cuts()
    assert plan.asked == "macs=0.5" and plan.as_dict() == lineage_of(small).plans[0]


def test_saving_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.fp"
    save(create("resnet8", width=4), path)
    before = path.read_bytes()
    broken = create("resnet8", width=4)
    broken.register_buffer("late", torch.empty(3, device="meta"))
    with pytest.raises(ArtifactError, match="late"):
        save(broken, path)
    with pytest.raises(ArtifactError, match="JSON"):
        save(create("resnet8", width=4), path, notes={"when": object()})
    assert path.read_bytes() == before
    save(create("resnet8", width=6), path)
    assert load(path).conv1.out_channels == 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.fp"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    model = create("resnet8", width=4)
    with pytest.raises(OutputError, match="nowhere"):
        save(model, tmp_path / "nowhere" / "model.fp")
    with pytest.raises(OutputError, match="folder"):
        save(model, tmp_path)


def rewrite_header(path: Path, change: object) -> None:
    """Write the artifact anew with ``change`` applied to its header, as somebody who means harm would."""
    with safe_open(path, framework="pt") as content:
        header = json.loads(content.metadata()["flowprune"])["header"]
    assert callable(change)
    change(header)
    tensors = load_file(path)
    whole = {"sha256": digest(header, tensors), "header": header}
    save_file(tensors, path, metadata={"flowprune": json.dumps(whole)})


def hostile_headers() -> dict[str, object]:
    def later_format(header: dict) -> None:
        header["format"] = 99

    def no_plan(header: dict) -> None:
        header["steps"] = [{"kind": "cut", "data": {"removed": 3}}]

    def odd_steps(header: dict) -> None:
        header["steps"] = "abc"

    def odd_kind(header: dict) -> None:
        header["steps"][0]["kind"] = "hatch"

    def odd_mask(header: dict) -> None:
        header["masks"] = {"conv9.weight": "zeros"}

    def odd_codes(header: dict) -> None:
        header["coded"] = {"conv1.weight": {"parts": ["stream"]}}

    def odd_replacement(header: dict) -> None:
        header["steps"].append({"kind": "replace", "data": {"replacement": "linear_expansion", "modules": 3}})

    def no_builder(header: dict) -> None:
        header["builder"] = "resnet9"

    def odd_options(header: dict) -> None:
        header["options"] = {"depth": 3}

    def odd_builder(header: dict) -> None:
        header["builder"] = ["resnet8"]

    def far_index(header: dict) -> None:
        name, dimensions = next(iter(header["steps"][0]["data"]["removed"].items()))
        header["steps"][0]["data"]["removed"][name] = {key: [10**6] for key in dimensions}

    def other_key(header: dict) -> None:
        header["surprise"] = 1

    def lost_share(header: dict) -> None:
        header["shared"] = {"conv1.weight": "nothing"}

    return {make.__name__: make for make in list(locals().values()) if callable(make)}


@pytest.mark.parametrize("name", hostile_headers())
def test_a_damaged_header_is_one_clear_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.fp"
    save(prune(create("resnet8", width=4), IMAGES, importance=L2(), macs=0.5), path)
    rewrite_header(path, hostile_headers()[name])
    with pytest.raises(ArtifactError) as raised:
        load(path)
    assert str(path) in str(raised.value) or "plan" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_artifact_imports_no_module_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model.fp"
    save(create("resnet8", width=4), path)

    def trap(header: dict) -> None:
        header["builder"] = "trap_module:build"

    rewrite_header(path, trap)
    with pytest.raises(ArtifactError, match="build it yourself"):
        load(path)


def test_an_artifact_cannot_ask_for_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.fp"
    model = create("resnet8", width=4)
    save(model, path)

    def fetch(header: dict) -> None:
        header["options"] |= {"weights": str(tmp_path / "elsewhere.th"), "pretrained": True}

    rewrite_header(path, fetch)
    assert states_equal(load(path), model)


def test_foreign_damaged_and_wrong_files_are_refused_in_one_line(tmp_path: Path) -> None:
    good = tmp_path / "good.fp"
    save(prune(create("resnet8", width=4), IMAGES, importance=L2(), macs=0.5), good)
    content = good.read_bytes()
    files: dict[str, bytes] = {
        "empty.fp": b"",
        "text.fp": b"no artifact at all, just some words",
        "header_only.fp": content[:200],
        "cut_off.fp": content[: len(content) // 2],
        "one_byte_short.fp": content[:-1],
        "longer.fp": content + b"x",
        "huge_header.fp": struct.pack("<Q", 2**60) + content[8:],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "checkpoint.fp")
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.fp")
    for name in [*files, "checkpoint.fp", "foreign.fp", "missing.fp", "."]:
        for read in (load, read_header):
            with pytest.raises(ArtifactError) as raised:
                read(tmp_path / name)
            assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value), name


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    good = tmp_path / "good.fp"
    save(prune(create("resnet8", width=4), IMAGES, importance=L2(), macs=0.5), good)
    content = good.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    chance = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        # Half of them in the header, where a number may turn into another one that still fits.
        damaged[chance.randrange(8 + length if chance.random() < 0.5 else len(content))] ^= 1 << chance.randrange(8)
        (tmp_path / "damaged.fp").write_bytes(damaged)
        with pytest.raises(ArtifactError) as raised:
            load(tmp_path / "damaged.fp")
        assert "\n" not in str(raised.value)


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "model.fp"
    save(prune(TwoLayers(), IMAGES, importance=L2(), channels=0.5), path)
    with pytest.raises(ArtifactError, match="does not fit the CifarResNet"):
        load(path, model=create("resnet8"))
    save(TwoLayers(), path)
    with pytest.raises(ArtifactError, match="missing"):
        load(path, model=nn.Sequential(nn.Conv2d(3, 8, 3)))
    wider = TwoLayers()
    wider.second = nn.Linear(8, 5)
    with pytest.raises(ArtifactError, match=r"\[4, 8\] in the file, \[5, 8\] in the model"):
        load(path, model=wider)


def test_modules_that_read_their_own_version_load(tmp_path: Path) -> None:
    """MNASNet refuses a state dictionary without version numbers."""
    model = create("torchvision:mnasnet0_5")
    save(model, tmp_path / "model.fp")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load(tmp_path / "model.fp").eval()(x), model.eval()(x))
