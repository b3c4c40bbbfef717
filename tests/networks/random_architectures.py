"""Random architectures: a row of blocks drawn by a ``random.Random``, which a seed or a hypothesis strategy provides.

The images are 3x8x8, the widths 8 to 24; some networks read further inputs. Shrinking is hypothesis's: ``random`` may be the one
of ``strategies.randoms``. In every batch norm some filters are dead, and most of their constants are not zero.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import torch
from constant_filters import with_constant_filters
from random_conditions import Conditioned
from random_drawing import Drawing
from random_networks import Head, Network
from torch import Tensor, nn

IMAGE = (3, 8, 8)


def architecture(random: Random) -> tuple[nn.Module, Counter[str]]:
    """A network in float64 and evaluation mode with nothing near zero, and how often each kind of block is in it."""
    drawing = Drawing(random)
    torch.manual_seed(random.randrange(2**31))
    size, width = IMAGE[1], drawing.width()
    body = [drawing.unit(IMAGE[0], width)]
    places = [(width, size)]
    for _ in range(drawing.pick(2, 3, 3, 4, 5)):
        after = drawing.pick(width, width, drawing.width())
        if size > 2 and drawing.often(0.3):
            blocks = [drawing.down(width, after, size)]
            size //= 2
        elif drawing.often(0.15):
            blocks = drawing.conditioned(width, after, size)
        else:
            blocks = [drawing.block(width, after, size, 2)]
        width = after
        body += blocks
        places += [(width, size)] * len(blocks)
    heads = [Head(width, size, drawing.count(f"head: {_head(drawing)}").partition(": ")[2])]
    output = drawing.pick("one", "one", "one", "auxiliary", "two")
    if output != "one":
        drawing.count(f"outputs: {output}")
        heads.append(Head(*places[len(body) // 2 - 1], "mean"))
    model = with_constant_filters(varied(Network(body, heads, output)))
    return model.double().eval(), drawing.kinds


def drawn_inputs(model: nn.Module, plain: bool = False) -> tuple[Tensor, ...]:
    """Two images, and whatever else the network reads; ``plain`` is what people give as an example: zeros, and every mark set."""
    further = [m.further_input(2, plain) for m in model.modules() if isinstance(m, Conditioned)]
    return torch.randn(2, *IMAGE, dtype=torch.float64), *further


def _head(drawing: Drawing) -> str:
    return drawing.pick("mean", "mean", "largest", "flatten", "view", "attribute", "number", "map", "gated features")


def varied(model: nn.Module) -> nn.Module:
    """Every norm, bias and slope away from its start: no difference may hide behind a zero or a one."""
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if name == "running_var" or (name == "weight" and tensor.dim() == 1):
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
                elif name == "running_mean" or (name.endswith("bias") and tensor.dim() == 1):
                    tensor.copy_(torch.rand_like(tensor) * 0.8 - 0.3)
    return model
