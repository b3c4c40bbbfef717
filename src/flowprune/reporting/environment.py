"""Where a run took place: versions and hardware, as far as they can change a result or a clock."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("flowprune", "torch", "torchvision", "accelerate", "numpy", "scikit-learn", "timm")


def environment() -> dict[str, Any]:
    """Versions and hardware, JSON-able; no name of a person, machine or folder is in it.

    Returns:
        ``python``, ``platform``, ``packages`` (name -> version, installed ones only), ``cpu`` (model name), ``cores``
        (those this process may use), ``threads`` (torch's), ``gpus`` (names), ``cuda`` (torch's version of it, or
        None).
    """
    packages: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def usable_cores() -> int:
    """How many cores this process may run on; a container or ``taskset`` may allow fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name; its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, text = line.partition(":")
            if field.strip() == "model name" and text.strip():
                return text.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
