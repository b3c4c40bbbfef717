"""Symmetric matrices brought to tridiagonal form: the costly half of their eigenvalues, by SciPy's LAPACK on the CPU.

torch has the whole solver only; its parts apart allow a cheaper second half (``root_trace.py``). SciPy's reduction is called
through the pointers that it publishes for compiled callers (``scipy.linalg.cython_lapack``), which let go of the interpreter's
lock: each thread reduces a matrix of its own.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from scipy import LowLevelCallable
from scipy.linalg import cython_lapack
from threadpoolctl import ThreadpoolController

_ROUTINE = {torch.float32: "ssytrd", torch.float64: "dsytrd"}
_PANEL = 64
"""Columns that LAPACK may reduce at once; more workspace than it asks for costs nothing."""


def tridiagonal(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Diagonal ``[n]`` and off-diagonal ``[n - 1]`` of a tridiagonal matrix with the eigenvalues of ``matrix``.

    Args:
        matrix: ``[n, n]``, symmetric, contiguous, float32 or float64, on the CPU; only its lower triangle is read. It is
            overwritten.

    Returns:
        Both in float64, or None if SciPy's routine is not the one known here or gave something that is not finite.
    """
    reduce = _reduction(_ROUTINE[matrix.dtype])
    size = len(matrix)
    if reduce is None or size < 2:
        return None
    # what LAPACK takes for the upper triangle of columns is the lower triangle of rows
    uplo, order, room, info = ctypes.c_char(b"U"), ctypes.c_int(size), ctypes.c_int(_PANEL * size), ctypes.c_int(0)
    diagonal, beside, factors = matrix.new_empty(3, size)
    work = matrix.new_empty(_PANEL * size)
    reduce(
        ctypes.byref(uplo),
        ctypes.byref(order),
        matrix.data_ptr(),
        ctypes.byref(order),
        diagonal.data_ptr(),
        beside.data_ptr(),
        factors.data_ptr(),
        work.data_ptr(),
        ctypes.byref(room),
        ctypes.byref(info),
    )
    off = beside[: size - 1]
    if info.value or not bool(torch.isfinite(diagonal).all() & torch.isfinite(off).all()):
        return None
    return diagonal.to(torch.float64), off.to(torch.float64)


@cache
def _reduction(name: str) -> Callable[..., None] | None:
    """SciPy's pointer to a LAPACK routine, if it takes what LAPACK's with 32-bit integers takes."""
    number = f"_{name[0]} *"
    known = LowLevelCallable.from_cython(cython_lapack, name).signature
    taken = [
        number if one.endswith(number) else one for one in known[known.index("(") + 1 : known.rindex(")")].split(", ")
    ]
    if taken != ["char *", "int *", number, "int *", number, number, number, number, "int *", "int *"]:
        return None
    pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    address = pointer_in(cython_lapack.__pyx_capi__[name], known.encode())
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(taken))(address)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """LAPACK's own threads off inside: whoever calls it from several threads has all cores busy.

    The number of threads is one for the whole process: the first to enter notes it, the last to leave puts it back.
    """
    with _entering:
        if not _inside:
            _inside.append(_controller().limit(limits=1, user_api="blas"))
        _inside.append(None)
    try:
        yield
    finally:
        with _entering:
            _inside.pop()
            if len(_inside) == 1:
                _inside.pop().restore_original_limits()


_entering = threading.Lock()
_inside: list[Any] = []
"""The limiter, and an entry for everyone inside."""


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
