"""Ultralytics' networks by the names of their configurations: ``zoo.from_ultralytics:yolov8n-seg``.

    pip install ultralytics

The library is under the AGPL, so the package depends on it nowhere; only this list builds its networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

TASKS = {"seg": "Segmentation", "pose": "Pose", "cls": "Classification", "obb": "OBB", "sem": "Semantic"}


def __getattr__(configuration: str) -> Callable[[], nn.Module]:
    """A builder of the network with random weights."""
    if configuration.startswith("__"):
        raise AttributeError(configuration)
    return partial(_build, configuration)


def _build(configuration: str) -> nn.Module:
    from ultralytics.nn import tasks
    from ultralytics.utils import LOGGER

    LOGGER.setLevel("ERROR")
    kind = (
        "RTDETRDetection"
        if configuration.startswith("rtdetr")
        else TASKS.get(configuration.rpartition("-")[2], "Detection")
    )
    kind = kind if hasattr(tasks, f"{kind}Model") else f"{kind}Segmentation"
    model: nn.Module = getattr(tasks, f"{kind}Model")(f"{configuration}.yaml", verbose=False)
    return model
