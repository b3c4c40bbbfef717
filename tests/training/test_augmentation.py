from __future__ import annotations

import torch

from flowprune.training.augmentation import augment, draw
from flowprune.training.settings import Augmentation


def test_each_image_is_the_padded_crop_and_mirror_that_were_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 7, 9), dtype=torch.uint8, generator=generator)
    drawn = draw(Augmentation(crop=2, flip=True), 40, generator)
    result = augment(images, 2, drawn)
    for number in range(40):
        padded = torch.zeros(3, 11, 13, dtype=torch.uint8)
        padded[:, 2:9, 2:11] = images[number]
        row, column = int(drawn.rows[number]), int(drawn.columns[number])
        window = padded[:, row : row + 7, column : column + 9]
        expected = window.flip(-1) if drawn.mirrored[number] else window
        assert torch.equal(result[number], expected)


def test_draws_cover_every_offset_and_half_the_mirrors() -> None:
    drawn = draw(Augmentation(crop=4), 5000, torch.Generator().manual_seed(1))
    for offsets in (drawn.rows, drawn.columns):
        assert torch.bincount(offsets, minlength=9).min() > 450
        assert len(torch.bincount(offsets)) == 9
    assert 0.45 < drawn.mirrored.float().mean() < 0.55
    assert not draw(Augmentation(flip=False), 100, torch.Generator()).mirrored.any()


def test_the_shares_of_two_processes_are_the_whole_draw() -> None:
    drawn = draw(Augmentation(), 9, torch.Generator().manual_seed(2))
    first, second = drawn.share(0, 2), drawn.share(1, 2)
    assert torch.equal(first.rows, drawn.rows[[0, 2, 4, 6, 8]])
    assert torch.equal(second.columns, drawn.columns[[1, 3, 5, 7]])
