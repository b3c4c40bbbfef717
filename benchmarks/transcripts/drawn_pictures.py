"""A folder of drawn pictures: discs, squares and crosses in any colour, place and size."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ("cross", "disc", "square")


def drawn(name: str, draw: random.Random, size: int) -> Image.Image:
    """One picture of a class."""
    ground, colour = (tuple(draw.randrange(low, low + 90) for _ in range(3)) for low in (0, 160))
    picture = Image.new("RGB", (size, size), ground)
    radius = draw.randint(size // 6, size // 3)
    x, y = (draw.randint(radius, size - 1 - radius) for _ in range(2))
    pen, box = ImageDraw.Draw(picture), (x - radius, y - radius, x + radius, y + radius)
    if name == "disc":
        pen.ellipse(box, fill=colour)
    elif name == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.line((x - radius, y, x + radius, y), fill=colour, width=3)
        pen.line((x, y - radius, x, y + radius), fill=colour, width=3)
    return picture


def draw_folder(folder: Path, halves: dict[str, int], size: int = 32, seed: int = 0) -> None:
    """Write ``folder/HALF/CLASS/N.png``, so many pictures of every class in each half."""
    draw = random.Random(seed)
    for half, count in halves.items():
        for name in CLASSES:
            (folder / half / name).mkdir(parents=True)
            for number in range(count):
                drawn(name, draw, size).save(folder / half / name / f"{number}.png")
