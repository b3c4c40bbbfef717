"""Options of the commands that mask, replace and quantize: which method, its own options, and what is kept."""

from __future__ import annotations

from typing import Annotated

import typer

from flowprune.commands.known_names import complete_methods
from flowprune.commands.options import RANKING, pairs

METHOD, BUDGET = "Method", "Budget"
"""The groups of these options in a command's help."""

MaskName = Annotated[
    str,
    typer.Option(
        "--mask",
        help="Which weights are zero (`flowprune methods`).",
        rich_help_panel=METHOD,
        autocompletion=complete_methods("masks"),
    ),
]
MaskOption = Annotated[list[str] | None, pairs("--mask-option", "Option of the mask, such as m=4", METHOD)]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        help="Keep this share (0.5 or 50%) or count (1.2M) of the weights; a fixed pattern needs none.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
ScoreName = Annotated[
    str,
    typer.Option(
        "--score",
        help="What a single weight is worth: magnitude, random.",
        rich_help_panel=RANKING,
        autocompletion=complete_methods("importance.weight_scores"),
    ),
]
WeightAllocator = Annotated[
    str | None,
    typer.Option(
        "--allocator",
        help="Who shares --keep out among the layers; the mask's own way if left out.",
        show_default=False,
        rich_help_panel=RANKING,
        autocompletion=complete_methods("allocators"),
    ),
]
LeftWhole = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="LAYER",
        help="Layer or pattern whose weights stay as they are; may be repeated.",
        show_default=False,
        rich_help_panel=METHOD,
    ),
]
ReplacementName = Annotated[
    str,
    typer.Option(
        "--replacement",
        help="What takes a module's place.",
        rich_help_panel=METHOD,
        autocompletion=complete_methods("replacements"),
    ),
]
ReplacementOption = Annotated[
    list[str] | None, pairs("--replacement-option", "Option of the replacement, such as expansion=4", METHOD)
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--module",
        metavar="NAME",
        help="Replace this module; every one that fits if left out. May be repeated.",
        show_default=False,
        rich_help_panel=METHOD,
    ),
]
QuantizerName = Annotated[
    str,
    typer.Option(
        "--quantizer",
        help="Which few values the weights become.",
        rich_help_panel=METHOD,
        autocompletion=complete_methods("quantizers"),
    ),
]
QuantizerOption = Annotated[
    list[str] | None, pairs("--quantizer-option", "Option of the quantizer, such as values=16", METHOD)
]
CodecName = Annotated[
    str,
    typer.Option(
        "--codec",
        help="How they are stored: huffman, sparse_huffman, packed_bits.",
        rich_help_panel=METHOD,
        autocompletion=complete_methods("codecs"),
    ),
]
CodecOption = Annotated[list[str] | None, pairs("--codec-option", "Option of the codec, such as table_bits=0", METHOD)]
Bytes = Annotated[
    str | None,
    typer.Option(
        "--bytes",
        help="Keep this share (10%) or size (120KB) of what the tensors take in a file.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
