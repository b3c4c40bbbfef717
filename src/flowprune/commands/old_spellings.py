"""How options were spelled before: they go on working, and no help mentions them."""

from __future__ import annotations

from collections.abc import Sequence

RENAMED = {"--model": "--builder"}
"""In every command: a positional MODEL and an option of that name were two things."""


def todays(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command line, old spellings replaced.

    ``flow --json FILE`` is ``--record FILE`` today: ``--json`` is a flag everywhere. ``export MODEL FILE.onnx`` is
    ``export MODEL --out FILE.onnx``. What follows a ``--`` is left alone.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    found: list[str] = []
    for position, word in enumerate(words[:end]):
        name, sign, value = word.partition("=")
        if name == "--json" and words[:1] == ["flow"]:
            follows = words[position + 1] if position + 1 < end else ""
            name = "--record" if sign or follows.endswith(".json") else name
        if words[0] == "export" and word.endswith(".onnx") and "--out" not in words and not sign:
            found.append("--out")
        found.append(RENAMED.get(name, name) + sign + value)
    return found + words[end:]
