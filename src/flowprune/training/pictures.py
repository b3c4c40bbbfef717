"""One picture file as pixels: JPEG and PNG by torchvision, whatever else Pillow knows by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprune.errors import DataError

# Pillow and torchvision are imported where they are used: not every command needs them, and not every installation has them.

_BY_TORCHVISION = (".jpg", ".jpeg", ".png")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")


def read_picture(file: str | Path, size: int) -> Tensor:
    """uint8 [3, size, size]: scaled until the short side is ``size``, and cut to the square in the middle.

    JPEG, PNG, BMP, TIFF, WebP, GIF and whatever else Pillow reads; grey, palette, CMYK and 16 bits become red, green and blue, a
    transparency is dropped.

    Raises:
        DataError: it cannot be read.
    """
    from torchvision.transforms import functional

    picture: Any = _pixels(Path(file))
    if tuple(picture.shape[1:]) != (size, size):
        picture = functional.resize(picture, [size], antialias=True)
        picture = functional.center_crop(picture, [size, size])
    return picture  # type: ignore[no-any-return]


def as_pixels(picture: Any) -> Tensor:
    """A picture of Pillow's as uint8 [3, height, width]."""
    if picture.mode in _DEEP_MODES:  # 16 bits: Pillow would cut all above 255 off
        deep = np.asarray(picture).astype(np.float64)
        picture = (deep / 257).round().clip(0, 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    else:
        picture = np.array(picture.convert("RGB"))
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()


def _pixels(file: Path) -> Tensor:
    if file.suffix.lower() in _BY_TORCHVISION:
        from torchvision.io import ImageReadMode, decode_image

        try:
            return decode_image(str(file), ImageReadMode.RGB)  # type: ignore[no-any-return]
        except RuntimeError:
            pass  # misnamed, or of a kind that only Pillow knows
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return as_pixels(picture)
    except Exception as error:  # Pillow raises whatever a damaged file makes it stumble over
        raise DataError(
            f"cannot read the picture {file}; remove or replace it, or leave such files out with unreadable=skip"
        ) from error


def is_readable(file: str | Path) -> bool:
    """Whether the picture can be read, to its last pixel."""
    try:
        _pixels(Path(file))
    except DataError:
        return False
    return True
