"""Pictures of one's own: how they may be laid out, which files are read, and what is said of the others."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from documents import ROOT, blocks, run
from PIL import Image

import flowprune as fp
from flowprune.cli import main
from flowprune.errors import DataError, FlowpruneWarning
from flowprune.studies.recipe import load_recipe
from flowprune.training import load_data
from flowprune.training.pictures import read_picture

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def picture(file: Path, colour: tuple[int, int, int] = (0, 0, 255)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(file)
    return file


def folder_of(root: Path, count: int = 5, ending: str = "png") -> Path:
    for name, colour in COLOURS.items():
        for number in range(count):
            picture(root / name / f"{number}.{ending}", colour)
    return root


def loaded(root: Path, **options: object) -> fp.training.Data:  # type: ignore[name-defined]
    return load_data("imagefolder", data_dir=root, size=8, normalize="none", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("second", ["val", "test", "valid", "validation"])
def test_two_folders(second: str, tmp_path: Path) -> None:
    folder_of(tmp_path / "train", 4)
    folder_of(tmp_path / second, 2)
    data = loaded(tmp_path)
    assert (len(data.train), len(data.test), data.names) == (8, 4, ("blue", "red"))


def test_one_flat_folder_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    folder_of(tmp_path, 10)
    first, again = loaded(tmp_path), loaded(tmp_path)
    assert (len(first.train), len(first.test)) == (16, 4)
    targets = [torch.cat([targets for _, targets in data.batches("test")]) for data in (first, again)]
    assert torch.equal(*targets) and targets[0].tolist() == [0, 0, 1, 1]
    files = [{sample[0] for sample in split._files.dataset.samples} for split in (first.train, first.test)]  # type: ignore[attr-defined]
    assert not files[0] & files[1] and len(files[0] | files[1]) == 20
    assert files[1] == {sample[0] for sample in again.test._files.dataset.samples}  # type: ignore[attr-defined]
    (tmp_path / "train").mkdir()
    for name in COLOURS:
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert len(loaded(tmp_path).test) == 4  # a train without a second half is split, too


def nothing(root: Path) -> Path:
    return root


def loose(root: Path) -> Path:
    return picture(root / "a.png").parent


def one_half(root: Path) -> Path:
    folder_of(root / "val")
    return folder_of(root / "train")


def too_high(root: Path) -> Path:
    folder_of(root / "flowers" / "train")
    folder_of(root / "flowers" / "val")
    return root


def too_high_and_flat(root: Path) -> Path:
    folder_of(root / "flowers")
    return root


def without_train(root: Path) -> Path:
    folder_of(root / "val")
    return root


def single(root: Path) -> Path:
    folder_of(root)
    picture(root / "green" / "only.png")
    return root


def without_pictures(root: Path) -> Path:
    folder_of(root)
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        (nothing, "found no pictures; point --data-dir at their folder"),
        (loose, "put those of a class into a folder named like the class"),
        (one_half, "val lies beside it; point --data-dir at"),
        (too_high, "did you mean --data-dir {}/flowers?"),
        (too_high_and_flat, "did you mean --data-dir {}/flowers?"),
        (without_train, "name the folder of the training pictures train"),
        (single, "holds 1 picture; a split drawn from"),
        (without_pictures, "holds no pictures in a folder a class"),
    ],
)
def test_a_wrong_layout_gets_the_right_advice(
    made: Callable[[Path], Path], advice: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = made(tmp_path)
    words = ["evaluate", "resnet8", "--data", "imagefolder", "--data-option", "size=8", "--data-dir", str(root)]
    assert main(words) == 2
    line = capfd.readouterr().err
    assert advice.format(tmp_path) in line and line.count("\n") == 1


def test_every_common_kind_of_file_is_read_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    for ending in ("png", "bmp", "tiff", "ppm"):
        colour.save(tmp_path / f"a.{ending}")
        assert torch.equal(read_picture(tmp_path / f"a.{ending}", 8), expected), ending
    colour.save(tmp_path / "a.webp", lossless=True)
    assert torch.equal(read_picture(tmp_path / "a.webp", 8), expected)
    grey = colour.convert("L")
    same = torch.from_numpy(np.array(grey))[None].expand(3, 8, 8)
    for ending in ("png", "tiff", "bmp"):
        grey.save(tmp_path / f"grey.{ending}")
        assert torch.equal(read_picture(tmp_path / f"grey.{ending}", 8), same), ending
    few = colour.quantize(8)
    for ending in ("png", "gif", "tiff"):
        few.save(tmp_path / f"palette.{ending}")
        shown = torch.from_numpy(np.array(few.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(read_picture(tmp_path / f"palette.{ending}", 8), shown), ending
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.tiff")
    assert torch.equal(read_picture(tmp_path / "deep.tiff", 8), same)
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    for ending in ("tiff", "jpg"):
        ink.save(tmp_path / f"ink.{ending}")
        red, green, blue = read_picture(tmp_path / f"ink.{ending}", 8).float().mean((1, 2)).tolist()
        assert red > 200 and green < 60 and blue < 60, ending
    colour.save(tmp_path / "really.bmp")
    (tmp_path / "really.bmp").rename(tmp_path / "misnamed.png")
    assert torch.equal(read_picture(tmp_path / "misnamed.png", 8), expected)


def test_an_unreadable_file_is_named_and_refused_or_left_out_as_asked(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", 4)
    folder_of(tmp_path / "val", 2)
    broken = tmp_path / "train" / "red" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=f"cannot read the picture {broken}; remove or replace it"):
        list(loaded(tmp_path).batches("train"))
    with pytest.warns(FlowpruneWarning, match=f"1 picture of {tmp_path} cannot be read and is left out: {broken}"):
        data = loaded(tmp_path, unreadable="skip")
    assert len(data.train) == 7 and len(list(data.batches("train", batch_size=7))) == 1
    with pytest.raises(DataError, match="use refuse or skip"):
        loaded(tmp_path, unreadable="ignore")


def test_an_own_folder_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flat, of a kind torchvision cannot read, one file broken: trained on, pruned, and asked what it sees."""
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "pictures", 10, "bmp")
    (tmp_path / "pictures" / "red" / "broken.bmp").write_bytes(b"BM")
    data = "--data imagefolder --data-dir pictures --data-option size=16 --data-option unreadable=skip"
    network = "--model-option width=4 --model-option classes=2"
    steps = f"--epochs 12 --batch-size 4 --lr 0.05 --set augmentation=null --out dense.fp {network} {data}"
    assert main(f"finetune resnet8 {steps}".split()) == 0
    said = capfd.readouterr()
    assert "1 picture of pictures cannot be read and is left out: pictures/red/broken.bmp" in said.err
    assert "top-1 100.00 %" in said.out, said
    assert main(f"prune dense.fp --macs 60% --out small.fp {data}".split()) == 0
    assert "right after the cut; 4 test images of imagefolder" in capfd.readouterr().out
    assert main(["predict", "dense.fp", "pictures/red/0.bmp", "--top", "1"]) == 0
    assert capfd.readouterr().out.startswith("pictures/red/0.bmp: red ")


def test_the_page_and_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(blocks("docs/pictures.md", "python"), "docs/pictures.md")
    recipe = load_recipe(ROOT / "recipes" / "own-pictures.yaml")
    assert recipe.name == "own-pictures" and recipe.data.name == "imagefolder"
    assert recipe.pruning is not None and recipe.pruning.budgets[0].macs == "50%"


def test_any_data_set_of_pairs_or_mappings() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(6)]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    forms = {
        "arrays": [(array, number % 3) for number, array in enumerate(arrays)],
        "pictures": [{"image": Image.fromarray(array), "label": number % 3} for number, array in enumerate(arrays)],
        "bytes": [(tensor, number % 3) for number, tensor in enumerate(tensors)],
        "shares": [{"img": tensor / 255, "label": torch.tensor(number % 3)} for number, tensor in enumerate(tensors)],
    }
    for form, pairs in forms.items():
        data = fp.data_from(pairs, pairs[:2], normalize="none")
        ((images, targets),) = data.batches("train", batch_size=6)
        assert torch.allclose(images, torch.stack(tensors) / 255, atol=1e-6), form
        assert targets.tolist() == [0, 1, 2, 0, 1, 2] and data.classes == 3
    grey = fp.data_from(
        [(np.zeros((8, 8), np.uint8), 0)], [(np.zeros((8, 8), np.uint8), 1)], classes=2, normalize="none"
    )
    assert grey.shape == (1, 8, 8) and grey.classes == 2
    with pytest.raises(DataError, match="outside 0 to 1; leave its normalization to normalize="):
        fp.data_from([(tensors[0] - 300.0, 0)], [])
    with pytest.raises(DataError, match="needed are image and label"):
        fp.data_from([{"pixels": 1}], [])


def test_a_folder_that_hugging_face_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "red"])})

    def split(count: int) -> object:
        pictures = [Image.new("RGB", (20, 10), COLOURS[name]) for name in ("blue", "red") * count]
        return datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * count}, features=features)

    datasets.DatasetDict({"train": split(3), "test": split(2)}).save_to_disk(tmp_path / "saved")
    data = load_data("huggingface", data_dir=tmp_path / "saved", size=8, normalize="none")
    assert (len(data.train), len(data.test), data.names) == (6, 4, ("blue", "red"))
    for images, targets in data.batches("test"):
        for image, target in zip(images, targets, strict=True):
            assert image.mean((1, 2)).tolist() == ([0, 0, 1] if target == 0 else [1, 0, 0])
    with warnings.catch_warnings(), pytest.raises(DataError, match="no folder written by datasets"):
        load_data("huggingface", data_dir=tmp_path)


class Saved(list[dict[str, object]]):
    """A split as the library hands it out: entries by position, and what is known of its columns."""

    features: ClassVar = {"image": SimpleNamespace(), "label": SimpleNamespace(names=["blue", "red"])}


def test_what_the_library_loads_becomes_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library, which few have: splits are mappings' values, pictures Pillow's."""
    entries = Saved({"image": Image.new("RGB", (20, 10), COLOURS[name]), "label": n} for n, name in enumerate(COLOURS))
    whole = {"train": Saved(entries * 3), "validation": entries}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_from_disk=lambda folder: whole))
    data = load_data("huggingface", data_dir=tmp_path, size=8, normalize="none")
    assert (len(data.train), len(data.test), data.classes, data.names) == (6, 2, 2, ("blue", "red"))
    ((images, targets),) = data.batches("test")
    assert [image.mean((1, 2)).tolist() for image in images] == [[0, 0, 1], [1, 0, 0]] and targets.tolist() == [0, 1]
    whole.pop("validation")
    with pytest.raises(DataError, match="has the splits train; needed are train, and test or validation"):
        load_data("huggingface", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(fp.FlowpruneError, match="needs datasets: pip install datasets"):
        load_data("huggingface", data_dir=tmp_path)
