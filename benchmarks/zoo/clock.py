"""Seconds and memory of one call."""

from __future__ import annotations

import contextlib
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
_STATUS = Path("/proc/self/status")
_FORGET_PEAK = Path("/proc/self/clear_refs")


def measured(call: Callable[[], Result]) -> tuple[Result, dict[str, Any]]:
    """What ``call`` returns; its wall and processor seconds; the process' memory, in MiB.

    ``memory_before`` is the resident set with the dense model and its inputs loaded, ``memory_peak`` the highest during the call.
    Where the system cannot forget an earlier peak (it is Linux that can), the peak is that of the whole process.
    """
    gc.collect()
    before = _mebibytes("VmRSS")
    with contextlib.suppress(OSError):
        _FORGET_PEAK.write_text("5", encoding="ascii")
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    record = {
        "seconds": time.process_time() - processor,
        "seconds_wall": time.perf_counter() - wall,
        "memory_before": before,
        "memory_peak": _mebibytes("VmHWM"),
    }
    return result, record


def _mebibytes(field: str) -> float:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
