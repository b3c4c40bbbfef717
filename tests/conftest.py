"""What every test runs in: one thread, and an environment that no other test has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small networks are fastest with it, and several test processes get along."""
    import torch  # which the process that only hands the tests out can do without

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A training library that starts a process group leaves its rank and port behind; the next test's processes would join it."""
    with mock.patch.dict(os.environ):
        yield
