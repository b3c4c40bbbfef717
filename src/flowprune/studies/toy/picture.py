"""Decision regions as one picture: a row for each data set, before and after each criterion."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flowprune.studies.toy.experiment import EACH, EXTENT, ToyResult
from flowprune.studies.toy.plane_points import points

_REGIONS = ((219, 229, 240), (250, 226, 205), (222, 236, 214), (236, 220, 238))
_POINTS = ((47, 95, 150), (194, 87, 26), (70, 122, 48), (132, 62, 142))
_TILE, _GAP, _HEAD = 200, 10, 20
_SHOWN = 200
"""Points a class that are drawn."""


def picture(result: ToyResult, columns: int = 5) -> bytes:
    """A PNG: for every data set the regions before, then after each criterion, ``columns`` side by side.

    Args:
        result: of the experiment.
        columns: pictures in a line.
    """
    tiles = [
        (f"{data}, {name}" if name == "dense" else _title(result, data, name), data, name)
        for data, by_name in result.regions.items()
        for name in by_name
    ]
    lines: list[list[tuple[str, str, str]]] = []
    for data in result.regions:
        ours = [tile for tile in tiles if tile[1] == data]
        lines += [ours[start : start + columns] for start in range(0, len(ours), columns)]
    wide = min(columns, max(len(line) for line in lines))
    size = (wide * (_TILE + _GAP) + _GAP, len(lines) * (_TILE + _HEAD + _GAP) + _GAP)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default()
    for row, line in enumerate(lines):
        for column, (title, data, name) in enumerate(line):
            left, top = _GAP + column * (_TILE + _GAP), _GAP + row * (_TILE + _HEAD + _GAP)
            pen.text((left, top + 3), title, fill=(40, 46, 58), font=font)
            page.paste(_tile(result, data, name), (left, top + _HEAD))
    stream = io.BytesIO()
    page.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _title(result: ToyResult, data: str, name: str) -> str:
    return f"{name}: {100 * result.kept[data][name]:.1f} % kept"


def _tile(result: ToyResult, data: str, name: str) -> Image.Image:
    """The regions, and the same points in each."""
    palette = np.array(_REGIONS, dtype=np.uint8)
    small = Image.fromarray(palette[result.regions[data][name].numpy()])
    tile = small.resize((_TILE, _TILE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(tile)
    x, y = points(data, EACH, 0).some(_SHOWN, 0)
    places = (x + EXTENT) / (2 * EXTENT) * _TILE
    for (across, up), label in zip(places.tolist(), y.tolist(), strict=True):
        middle = (across, _TILE - up)
        pen.ellipse((middle[0] - 1, middle[1] - 1, middle[0] + 1, middle[1] + 1), fill=_POINTS[label])
    return tile
