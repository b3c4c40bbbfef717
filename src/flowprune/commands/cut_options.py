"""Options that say what a cut keeps and what it may take."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import typer

from flowprune.commands.known_names import complete_methods
from flowprune.commands.options import RANKING, pairs
from flowprune.errors import BudgetError

BUDGET, LIMITS, STEPS = "Budget: exactly one", "Limits", "Steps"
"""The groups of these options in a command's help."""

_Backend = Literal["pytorch", "compiled", "onnxruntime"]
BACKENDS: tuple[str, ...] = get_args(_Backend)

Macs = Annotated[
    str | None,
    typer.Option(
        "--macs",
        help="Keep this share (0.5 or 50%) or count (60M) of the MACs.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
Params = Annotated[
    str | None,
    typer.Option(
        "--params", help="Keep this share or count of the parameters.", show_default=False, rich_help_panel=BUDGET
    ),
]
Channels = Annotated[
    str | None,
    typer.Option("--channels", help="Keep this share of every group.", show_default=False, rich_help_panel=BUDGET),
]
ChannelsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--channels-of",
        metavar="LAYER=SHARE",
        help="Keep this share of a layer's or pattern's channels; all others stay. May be repeated.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        help="Remove filters whose scale is below this share of the 90th percentile.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        "--latency",
        help="Keep this share (0.7) of a forward's time here, or this time (4ms).",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
Scope = Annotated[
    Literal["global", "local"],
    typer.Option("--scope", help="Rank channels globally, or take the same share everywhere.", rich_help_panel=RANKING),
]
LargestCut = Annotated[
    str, typer.Option("--largest-cut", help="At most this share of a group leaves.", rich_help_panel=LIMITS)
]
LargestCutOf = Annotated[
    list[str] | None,
    typer.Option(
        "--largest-cut-of",
        metavar="LAYER=SHARE",
        help="At most this share of a layer or pattern leaves. May be repeated.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
RoundTo = Annotated[
    str,
    typer.Option(
        "--round-to",
        help="Widths become the nearest multiple of this, such as 8; auto: what this machine likes.",
        rich_help_panel=LIMITS,
    ),
]
Backend = Annotated[
    _Backend,
    typer.Option("--backend", help="What --latency is timed in, and --round-to auto is for.", rich_help_panel=LIMITS),
]
Heads = Annotated[
    Literal["whole", "inside", "both"],
    typer.Option("--heads", help="Attention loses whole heads, channels inside each, or both.", rich_help_panel=LIMITS),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="Module or pattern that stays as it is.", show_default=False, rich_help_panel=LIMITS),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="NAME=DIMENSIONS",
        help="Dimensions of a parameter, module or pattern that stay, such as conv1.weight=[0].",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
AllocatorName = Annotated[
    str | None,
    typer.Option(
        "--allocator",
        help="Who says how many channels leave where under --macs or --params; else all are ranked together.",
        show_default=False,
        rich_help_panel=RANKING,
        autocompletion=complete_methods("allocators"),
    ),
]
AllocatorOption = Annotated[list[str] | None, pairs("--allocator-option", "Option of the allocator", RANKING)]
Branches = Annotated[
    bool,
    typer.Option(
        "--branches", help="Remove dead ends of residual branches, too, where that saves time.", rich_help_panel=LIMITS
    ),
]
EveryBranch = Annotated[
    bool,
    typer.Option(
        "--every-branch",
        help="As --branches, also where the index costs more than it saves.",
        rich_help_panel=LIMITS,
    ),
]
Steps = Annotated[
    int,
    typer.Option("--steps", min=1, help="Cut in this many steps, with training between them.", rich_help_panel=STEPS),
]
StepEpochs = Annotated[
    int,
    typer.Option("--step-epochs", min=0, help="Epochs of training between two steps.", rich_help_panel=STEPS),
]
StepLr = Annotated[float, typer.Option("--step-lr", help="Learning rate of that training.", rich_help_panel=STEPS)]


def width_multiple(given: str) -> int | str:
    """``--round-to`` as ``fp.plan`` takes it.

    Raises:
        BudgetError: it is neither a whole number above 0 nor "auto".
    """
    if given != "auto" and not (given.isdecimal() and int(given)):
        raise BudgetError(f"--round-to {given!r}: use a whole number, such as 8, or auto")
    return int(given) if given.isdecimal() else given
