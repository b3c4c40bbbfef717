"""Masks, replacements and quantized weights in an artifact: the same model back, codes instead of floats, nobody's code run."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import flowprune as fp
from flowprune.artifacts.header import digest, read_header
from flowprune.engine.steps import Step, lineage_of
from flowprune.errors import ArtifactError
from flowprune.methods.codecs import Huffman, PackedBits, SparseHuffman
from flowprune.methods.quantizers import REGISTRY as QUANTIZERS
from flowprune.methods.replacements import REGISTRY as REPLACEMENTS
from flowprune.methods.replacements import LinearExpansion, restore

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def small_resnet(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("resnet8", width=width)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and first[name].numpy().tobytes() == second[name].numpy().tobytes()
        for name in first
    )


def same_masks(one: nn.Module, other: nn.Module) -> bool:
    first, second = lineage_of(one).masks, lineage_of(other).masks
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def rewrite(path: Path, change) -> None:
    """The file with another header, or other tensors, and the digest of what it is now."""
    with safe_open(path, framework="pt") as content:
        header = json.loads(content.metadata()["flowprune"])["header"]
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={"flowprune": json.dumps({"sha256": digest(header, tensors), "header": header})})


def test_all_steps_in_a_row_come_back_and_can_be_cut_again(tmp_path: Path) -> None:
    model = fp.prune(small_resnet(), IMAGES, importance=fp.importance.L2(), macs=0.8)
    model = fp.replace(model, IMAGES, replacement="linear_expansion", names=["linear"], expansion=2)
    model = fp.mask(model, IMAGES, mask="n_m", weights=0.5)
    model = fp.prune(model, IMAGES, importance=fp.importance.L2(), macs=0.7)
    model = fp.quantize(model, IMAGES, quantizer="uq", codec="sparse_huffman", values=16)
    fp.save(model, tmp_path / "all.fp")
    loaded = fp.load(tmp_path / "all.fp")
    assert [step.kind for step in lineage_of(loaded).steps] == ["cut", "replace", "mask", "cut", "quantize"]
    assert same_bits(loaded, model) and same_masks(loaded, model)
    assert json.dumps(lineage_of(loaded).plans) == json.dumps(lineage_of(model).plans)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IMAGES), model.eval()(IMAGES))
    again = fp.prune(loaded, IMAGES, importance=fp.importance.L2(), macs=0.8)
    fp.save(again, tmp_path / "again.fp")
    back = fp.load(tmp_path / "again.fp")
    assert same_bits(back, again) and same_masks(back, again)


@pytest.mark.parametrize(
    "codec", [Huffman(), Huffman(table_bits=0), SparseHuffman(), SparseHuffman(word=16), PackedBits()]
)
def test_a_packed_network_is_the_same_to_the_bit_and_its_file_to_the_byte(codec, tmp_path: Path) -> None:
    sparse = fp.mask(small_resnet(16), IMAGES, weights=0.2)
    packed = fp.quantize(sparse, IMAGES, quantizer="cws", codec=codec, values=8)
    fp.save(packed, tmp_path / "packed.fp")
    loaded = fp.load(tmp_path / "packed.fp")
    assert same_bits(loaded, packed) and same_masks(loaded, packed)
    parameters, coded = dict(packed.named_parameters()), read_header(tmp_path / "packed.fp").coded
    assert set(coded) == set(lineage_of(packed).masks)
    bits = {name: codec.bits(codec.encode(parameters[name].detach().numpy()), table=True) for name in coded}
    plain = sum(tensor.nbytes for name, tensor in packed.state_dict().items() if name not in coded)
    content = (tmp_path / "packed.fp").read_bytes()
    (header,) = struct.unpack_from("<Q", content)
    assert len(content) == 8 + header + sum(-(-size // 8) for size in bits.values()) + plain
    # A second time from what was loaded: the same file but for nothing.
    fp.save(loaded, tmp_path / "twice.fp")
    assert (tmp_path / "twice.fp").read_bytes() == content


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_number_types_are_packed_too(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30).to(dtype)
    packed = fp.quantize(layer, torch.zeros(1, 40, dtype=dtype), quantizer="uq", codec="huffman", values=8)
    fp.save(packed, tmp_path / "packed.fp")
    loaded = fp.load(tmp_path / "packed.fp", model=nn.Linear(40, 30))
    assert list(read_header(tmp_path / "packed.fp").coded) == ["weight"]
    assert loaded.weight.dtype == dtype and torch.equal(loaded.weight, packed.weight)


def test_weights_trained_on_after_quantizing_are_stored_as_they_are(tmp_path: Path) -> None:
    packed = fp.quantize(small_resnet(), IMAGES, values=4)
    with torch.no_grad():
        for parameter in packed.parameters():
            parameter.add_(torch.randn_like(parameter))
    fp.save(packed, tmp_path / "trained.fp")
    assert not read_header(tmp_path / "trained.fp").coded and same_bits(fp.load(tmp_path / "trained.fp"), packed)


def test_a_mask_that_zeros_do_not_show_is_stored_in_bits(tmp_path: Path) -> None:
    sparse = fp.mask(small_resnet(), IMAGES, mask="n_m", weights=0.5)
    fp.save(sparse, tmp_path / "seen.fp")
    assert set(read_header(tmp_path / "seen.fp").masks.values()) == {"zeros"}
    mask = lineage_of(sparse).masks["conv1.weight"]
    with torch.no_grad():
        sparse.conv1.weight[mask.nonzero()[0].split(1)] = 0.0  # a weight that may move again, and happens to be zero
    fp.save(sparse, tmp_path / "bits.fp")
    assert read_header(tmp_path / "bits.fp").masks["conv1.weight"] == "bits"
    assert same_masks(fp.load(tmp_path / "bits.fp"), sparse)


def test_an_expanded_network_comes_back_expanded_and_a_restored_one_as_if_it_never_was(tmp_path: Path) -> None:
    model = small_resnet()
    wide = fp.replace(model, IMAGES, replacement="linear_expansion", expansion=2, seed=3)
    fp.save(wide, tmp_path / "wide.fp")
    loaded = fp.load(tmp_path / "wide.fp")
    assert same_bits(loaded, wide)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IMAGES), model.eval()(IMAGES), rtol=1e-4, atol=1e-5)
    plain = restore(loaded)
    assert lineage_of(plain) == lineage_of(model) and list(plain.state_dict()) == list(model.state_dict())
    # Where something happened in between, taking back is a step of its own.
    cut = restore(fp.prune(wide, IMAGES, importance=fp.importance.L2(), macs=0.6))
    fp.save(cut, tmp_path / "cut.fp")
    assert [step.kind for step in lineage_of(cut).steps] == ["replace", "cut", "replace"]
    assert same_bits(fp.load(tmp_path / "cut.fp"), cut)


@pytest.mark.parametrize("quantizer", ["uq", "pws"])
def test_a_budget_of_bytes_is_the_largest_that_fits(quantizer: str, tmp_path: Path) -> None:
    model = small_resnet(16)
    fp.save(model, tmp_path / "plain.fp")
    packed = fp.quantize(model, IMAGES, quantizer=quantizer, codec="packed_bits", bytes=0.25)
    chosen = lineage_of(packed).steps[-1].data["options"]["values"]

    def stored(of: nn.Module) -> int:
        fp.save(of, tmp_path / "some.fp")
        content = (tmp_path / "some.fp").read_bytes()
        return len(content) - 8 - struct.unpack_from("<Q", content)[0]

    limit = 0.25 * stored(model)
    sizes = QUANTIZERS[quantizer].sizes
    larger = sizes[sizes.index(chosen) + 1]
    assert (
        stored(packed)
        <= limit
        < stored(fp.quantize(model, IMAGES, quantizer=quantizer, codec="packed_bits", values=larger))
    )
    with pytest.raises(fp.FlowpruneError, match=r"values=\d+ takes [\d,]+ bytes"):
        fp.quantize(model, IMAGES, quantizer=quantizer, codec="packed_bits", bytes="500B")
    with pytest.raises(fp.FlowpruneError, match="not both"):
        fp.quantize(model, IMAGES, quantizer=quantizer, bytes=0.25, values=4)


class OtherExpansion(LinearExpansion):
    """A replacement of a third party."""


def test_steps_of_third_parties_are_refused_unless_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fp.replace(small_resnet(), IMAGES, replacement=OtherExpansion(), names=["linear"])
    with pytest.raises(ArtifactError, match="OtherExpansion is not registered"):
        fp.save(own, tmp_path / "own.fp")
    list(REPLACEMENTS)
    monkeypatch.setitem(REPLACEMENTS._items, "other_expansion", OtherExpansion)
    model = fp.replace(small_resnet(), IMAGES, replacement="other_expansion", names=["linear"])
    fp.save(model, tmp_path / "other.fp")
    with pytest.raises(ArtifactError, match=r"allow=\['other_expansion'\]") as raised:
        fp.load(tmp_path / "other.fp")
    assert "\n" not in str(raised.value)
    assert same_bits(fp.load(tmp_path / "other.fp", allow=["other_expansion"]), model)
    monkeypatch.delitem(REPLACEMENTS._items, "other_expansion")
    with pytest.raises(ArtifactError, match="not installed"):
        fp.load(tmp_path / "other.fp", allow=["other_expansion"])


def strange_files() -> dict[str, object]:
    def unknown_codec(header: dict, tensors: dict) -> None:
        header["coded"]["linear.weight"]["header"]["codec"] = "os.system"

    def unknown_step_codec(header: dict, tensors: dict) -> None:
        header["steps"][-1]["data"]["codec"] = "zip"

    def lost_part(header: dict, tensors: dict) -> None:
        del tensors["code:stream:linear.weight"]

    def other_numbers(header: dict, tensors: dict) -> None:
        header["coded"]["linear.weight"]["kind"] = "float64"

    def no_numbers(header: dict, tensors: dict) -> None:
        header["coded"]["linear.weight"]["kind"] = "nn"

    def damaged_stream(header: dict, tensors: dict) -> None:
        tensors["code:stream:linear.weight"][0] = 7

    def endless_shape(header: dict, tensors: dict) -> None:
        header["coded"]["linear.weight"]["header"]["shape"] = [10**9, 10**9]

    def lost_bits(header: dict, tensors: dict) -> None:
        header["masks"]["linear.weight"] = "bits"

    def short_bits(header: dict, tensors: dict) -> None:
        header["masks"]["linear.weight"] = "bits"
        tensors["mask:linear.weight"] = torch.zeros(1, dtype=torch.uint8)

    def all_masked(header: dict, tensors: dict) -> None:
        header["masks"]["linear.weight"] = "bits"
        tensors["mask:linear.weight"] = torch.zeros(10 * 32 // 8, dtype=torch.uint8)

    def mask_of_a_buffer(header: dict, tensors: dict) -> None:
        header["masks"]["bn1.running_var"] = "zeros"

    return {make.__name__: make for make in list(locals().values()) if callable(make)}


@pytest.mark.parametrize("name", strange_files())
def test_damaged_codes_and_masks_are_one_clear_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "packed.fp"
    fp.save(fp.quantize(fp.mask(small_resnet(), IMAGES, weights=0.5), IMAGES, codec="huffman", values=4), path)
    rewrite(path, strange_files()[name])
    with pytest.raises(ArtifactError) as raised:
        fp.load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_pickled_record_of_version_0_1_is_understood() -> None:
    record = type(lineage_of(nn.Linear(1, 1))).__new__(type(lineage_of(nn.Linear(1, 1))))
    record.__setstate__({"builder": "resnet8", "options": {"width": 4}, "plans": ({"asked": "macs=0.5"},)})
    assert record.steps == (Step("cut", {"asked": "macs=0.5"}),) and record.plans == ({"asked": "macs=0.5"},)
