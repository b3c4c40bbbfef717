"""The examples of a page: they run as they stand, one after the other, as a reader would run them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def run(examples: Iterable[str], page: str) -> dict[str, object]:
    """The variables that the examples leave."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variables: dict[str, object] = {}
    try:
        for block in examples:
            exec(compile(block, page, "exec"), variables)
    finally:
        torch.set_num_threads(threads)
    return variables
