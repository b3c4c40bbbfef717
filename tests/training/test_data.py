from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from flowprune.errors import DataError, UnknownNameError
from flowprune.training import load_data, splits

REAL = os.environ.get("FLOWPRUNE_DATA")


def test_digits_are_all_there_once_and_split_the_same_way_every_time() -> None:
    data, again = load_data("digits", seed=0), load_data("digits", seed=5)
    assert data.shape == (1, 16, 16) and data.classes == 10
    assert len(data.train) + len(data.test) == 1797 and len(data.test) == 500
    targets = [torch.cat([y for _, y in data.batches(split)]) for split in ("train", "test")]
    assert sorted(torch.cat(targets).tolist()) == sorted(load_digits().target.tolist())
    assert torch.equal(targets[1], torch.cat([y for _, y in again.batches("test")]))


def test_normalized_training_images_have_mean_zero_and_deviation_one() -> None:
    pixels = torch.cat([x for x, _ in load_data("digits").batches("train")])
    assert abs(pixels.mean().item()) < 0.01
    assert pixels.std().item() == pytest.approx(1, abs=0.01)


def test_normalize_by_name_by_numbers_and_not_at_all() -> None:
    raw = load_data("digits", normalize="none").example_input(4)
    assert raw.min() == 0 and 0.9 < raw.max() <= 1
    explicit = load_data("digits", normalize=[[0.5], [0.25]]).example_input(4)
    torch.testing.assert_close(explicit, (raw - 0.5) / 0.25)
    with pytest.raises(UnknownNameError, match="did you mean 'imagenet'"):
        load_data("digits", normalize="imagnet")
    with pytest.raises(DataError, match="3 channels, the images have 1"):
        load_data("digits", normalize="imagenet")
    with pytest.raises(DataError, match="above 0"):
        load_data("digits", normalize=[[0.5], [0.0]])


def test_subset_is_fixed_by_its_seed_and_leaves_the_test_images_alone() -> None:
    first, same, other = (load_data("digits", subset=50, seed=seed) for seed in (1, 1, 2))

    def pixels(data: object) -> torch.Tensor:
        return torch.cat([x for x, _ in data.batches("train")])  # type: ignore[attr-defined]

    assert len(first.train) == 50 and len(first.test) == 500
    assert torch.equal(pixels(first), pixels(same))
    assert not torch.equal(pixels(first), pixels(other))
    with pytest.raises(DataError, match="subset: 5000 of the 1297"):
        load_data("digits", subset=5000)


def test_batches_are_limited_and_shuffled_by_seed() -> None:
    data = load_data("digits")
    assert [len(y) for _, y in data.batches("test", batch_size=64, count=2)] == [64, 64]
    plain, shuffled = (next(iter(data.batches("test", seed=seed)))[1] for seed in (None, 3))
    assert not torch.equal(plain, shuffled)


def test_unknown_data_set() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load_data("cifar-10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tinyimagenet", "imagefolder"])
def test_missing_folders_say_what_was_looked_for_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWPRUNE_DATA", raising=False)
    for folder, part in ((None, "FLOWPRUNE_DATA"), (tmp_path / "absent", "is no folder"), (tmp_path, "looked for")):
        with pytest.raises(DataError, match=part) as caught:
            load_data(name, data_dir=folder)
        assert "\n" not in str(caught.value) and "--data-dir" in str(caught.value)


def test_half_a_cifar_folder_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for part in ("data_batch_1", "data_batch_2", "batches.meta"):
        (tmp_path / "cifar-10-batches-py" / part).write_bytes(b"")
    with pytest.raises(DataError, match=r"half there, data_batch_3, data_batch_4, data_batch_5, test_batch missing"):
        load_data("cifar10", data_dir=tmp_path)
    for part in ("data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (tmp_path / "cifar-10-batches-py" / part).write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        load_data("cifar10", data_dir=tmp_path)


def picture(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 10)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def test_imagefolder_reads_classes_and_cuts_to_the_asked_size(tmp_path: Path) -> None:
    for half in ("train", "val"):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            for number in range(3):
                picture(tmp_path / half / name / f"{number}.png", colour)
    data = load_data("imagefolder", data_dir=tmp_path, size=8, normalize="none")
    assert data.classes == 2 and data.shape == (3, 8, 8) and len(data.train) == 6
    (images, targets), *rest = data.batches("train", batch_size=6)
    assert not rest and images.shape == (6, 3, 8, 8)
    for image, target in zip(images, targets, strict=True):
        assert image.mean((1, 2)).tolist() == ([0, 0, 1] if target == 0 else [1, 0, 0])
    (tmp_path / "val" / "red" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot read the picture"):
        list(data.batches("test"))
    with pytest.raises(DataError, match=r"^cannot read the picture") as caught:
        list(load_data("imagefolder", data_dir=tmp_path, size=8, workers=1).batches("test"))
    assert "\n" not in str(caught.value)
    picture(tmp_path / "val" / "green" / "0.png", (0, 255, 0))
    with pytest.raises(DataError, match=r"differ \(green\)"):
        load_data("imagefolder", data_dir=tmp_path)


@pytest.mark.parametrize("subset", [None, 5])
def test_pictures_of_a_small_folder_are_decoded_once_and_those_of_a_large_one_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subset: int | None
) -> None:
    for half in ("train", "val"):
        for label in range(2):
            for number in range(4):
                picture(tmp_path / half / str(label) / f"{number}.png", (60 * number, 200 * label, 7), (8, 8))
    whole = load_data("imagefolder", data_dir=tmp_path, size=8, subset=subset)
    with monkeypatch.context() as patched:
        patched.setattr(splits, "SMALL_BYTES", 4 * 3 * 8 * 8)  # four pictures
        large = load_data("imagefolder", data_dir=tmp_path, size=8, subset=subset)
    for order in ([3, 1, 1], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        positions = list(torch.tensor(order).split(2))
        ours, theirs = (list(data.train.batches(positions, torch.device("cpu"))) for data in (whole, large))
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(ours, theirs, strict=True))
    every = list(whole.batches("train"))
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    for first, again in zip(every, whole.batches("train"), strict=True):
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    with pytest.raises(DataError, match="cannot read the picture"):
        list(large.batches("train"))


def test_tinyimagenet_labels_its_test_half_from_the_annotations(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for label, colour in (("n01", (255, 0, 0)), ("n02", (0, 255, 0))):
        picture(root / "train" / label / "images" / f"{label}_0.JPEG", colour, (64, 64))
        picture(root / "val" / "images" / f"val_{label}.JPEG", colour, (64, 64))
    notes = root / "val" / "val_annotations.txt"
    notes.write_text("val_n02.JPEG\tn02\t0\t0\t62\t62\nval_n01.JPEG\tn01\t0\t0\t62\t62\n")
    data = load_data("tinyimagenet", data_dir=tmp_path, normalize="none")
    ((images, targets),) = data.batches("test")
    assert targets.tolist() == [1, 0] and data.shape == (3, 64, 64)
    assert images[0].mean((1, 2)).argmax() == 1 and images[1].mean((1, 2)).argmax() == 0
    notes.write_text("absent.JPEG\tn02\t0\t0\t62\t62\n")
    with pytest.raises(DataError, match="half there"):
        load_data("tinyimagenet", data_dir=tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not REAL, reason="FLOWPRUNE_DATA does not point at CIFAR-10")
def test_real_cifar10_is_found_read_whole_and_normalized() -> None:
    data = load_data("cifar10")
    assert (len(data.train), len(data.test), data.classes, data.shape) == (50_000, 10_000, 10, (3, 32, 32))
    pixels = torch.cat([x for x, _ in data.batches("train", batch_size=5000)])
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.ones(3), atol=0.01, rtol=0)
    ((_, targets), *_) = data.batches("test", batch_size=5)
    assert targets.tolist() == [3, 8, 8, 0, 6]
    assert len(load_data("cifar10", data_dir=Path(str(REAL)) / "cifar-10-batches-py").train) == 50_000
