"""Write the list of models beyond the zoo, chosen by rule and by lot, not by hand.

    python benchmarks/zoo/choose_beyond.py > benchmarks/zoo/beyond.txt

Of every module of timm one model that is not in ``zoo.txt``, drawn with the module's name as the seed among those with at most 32M
parameters and images of at most 288 pixels. Of torchvision every builder that is not in ``zoo.txt``, for classification,
segmentation and detection, with at most 60M parameters.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import timm
import torch
import torchvision

TIMM_PARAMETERS, TORCHVISION_PARAMETERS, PIXELS = 32_000_000, 60_000_000, 288
DETECTION_PIXELS, SEGMENTATION_PIXELS = 160, 128
NO_IMAGES = re.compile("raft|r3d|mc3|r2plus1d|s3d|mvit|swin3d|quantized")  # optical flow, videos, quantised copies


def main() -> None:
    listed = Path(__file__).resolve().with_name("zoo.txt").read_text(encoding="utf-8")
    known = {line.split()[0] for line in listed.splitlines() if line and not line.startswith("#")}
    print("# Beyond the zoo: chosen by benchmarks/zoo/choose_beyond.py. name, image size, options")
    for line in [*torchvision_lines(known), *timm_lines(known)]:
        print(line, flush=True)


def torchvision_lines(known: set[str]) -> list[str]:
    lines = []
    for name in torchvision.models.list_models():
        if f"torchvision:{name}" in known or NO_IMAGES.search(name):
            continue
        weights = torchvision.models.get_model_weights(name)
        pretrained = next(iter(weights)).meta if len(weights) else {}
        if pretrained.get("num_params", 0) > TORCHVISION_PARAMETERS:
            continue
        lines.append(f"torchvision:{name} {size_and_options(name, pretrained)}")
    return lines


def size_and_options(name: str, pretrained: dict[str, object]) -> str:
    """Detectors scale every image up to 800 pixels unless they are told otherwise; theirs are kept small."""
    if "ssd" in name:
        return "300"
    if re.search("rcnn|retinanet|fcos", name):
        return f"{DETECTION_PIXELS} min_size={DETECTION_PIXELS}"
    if re.search("fcn|deeplab|lraspp", name):
        return str(SEGMENTATION_PIXELS)
    if name.startswith("vit") or "inception" in name:
        least = pretrained.get("min_size", (224, 224))
        return str(least[0] if isinstance(least, tuple) else 224)
    return "224"


def timm_lines(known: set[str]) -> list[str]:
    lines = []
    for module in timm.list_modules():
        names = [name for name in timm.list_models(module=module) if f"timm:{name}" not in known]
        random.Random(module).shuffle(names)
        chosen = next(filter(None, map(timm_line, names)), None)
        if chosen is not None:
            lines.append(chosen)
    return lines


def timm_line(name: str) -> str | None:
    """The model's line if it is small enough; None if not, or if it cannot be built without weights."""
    settings = timm.models.get_pretrained_cfg(name)
    pixels = settings.input_size[-1] if settings is not None else 224
    if pixels > PIXELS:
        return None
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
    except Exception:  # needs data to be built
        return None
    return f"timm:{name} {pixels}" if sum(p.numel() for p in model.parameters()) <= TIMM_PARAMETERS else None


if __name__ == "__main__":
    main()
