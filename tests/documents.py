"""The examples of a page: they run as they stand, one after the other, as a reader would run them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


FRAGMENT = re.compile(r"^<!-- fragment: (.+) -->\n```\w*\n.*?^```$", re.DOTALL | re.MULTILINE)
"""A block that cannot run as it stands, with the reason; no reader sees the mark."""


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code in a language, without those that are marked as fragments."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", FRAGMENT.sub("", text_of(page)), re.DOTALL | re.MULTILINE)
    return [block for named, block in found if named == language]


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
