"""Neural implants: filters of a convolution that become 1x1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprune.engine.steps.copying import copy_of
from flowprune.errors import FlowpruneError, ModelError, checked_name
from flowprune.methods.replacements.implant_masks import implants_in
from flowprune.methods.replacements.in_model import matching, replace_modules
from flowprune.methods.replacements.registry import REGISTRY

Start = Literal["zero", "centre"]


class ImplantedConvolution(nn.Module):
    """A convolution some of whose filters are 1x1, in the order of the one it stands for. It trains, saves and exports.

    Args:
        full: makes the filters that are whole.
        implant: 1x1, of the same stride, makes the others.
        implants: the numbers of the others among all.
        bias: of all filters, or None.
    """

    def __init__(self, full: nn.Conv2d, implant: nn.Conv2d, implants: Sequence[int], bias: Tensor | None) -> None:
        super().__init__()
        filters = full.out_channels + implant.out_channels
        others = [number for number in range(filters) if number not in set(implants)]
        self.full, self.implant = full, implant
        self.register_buffer("order", torch.tensor([*others, *implants]).argsort())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, F, H', W']``."""
        made = torch.cat([self.full(x), self.implant(x)], 1).index_select(1, self.order)
        return made if self.bias is None else made + self.bias.view(1, -1, 1, 1)


@REGISTRY.register("neural_implant")
class NeuralImplant:
    """The filters of a convolution that are worth little become 1x1, and learn again.

    Yu et al., Hessian-Aware Pruning and Optimal Neural Implant (HAP), WACV 2022, arXiv 2101.08940: ``decisions.HessianSplit`` says
    which; those that leave are cut by the engine first. Agrees with fixtures of the authors' code: implants
    that start from zero compute what the network without them does, those that start from the centre are their "fast" form.
    Their third form, depthwise and pointwise, is left out.

    Taken are two-dimensional convolutions of one group with a middle tap, whose padding leaves a 1x1 one the same places; grouped
    and depthwise convolutions and linear layers are left alone, or refused by name; of transformers all but
    patches that overlap.

    Example:
        >>> model = fp.replace(model, inputs, replacement="neural_implant", names=["conv1"], implants=[0, 4])
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        return _objection(module) is None

    def replace(self, module: nn.Module, *, implants: Sequence[int] = (), start: Start = "zero") -> nn.Module:
        """A convolution with implants; ``module`` is left as it is.

        Args:
            module: a convolution.
            implants: the numbers of the filters that become 1x1; some, not all.
            start: "zero", or the "centre" tap of what they were.

        Raises:
            ModelError: the module cannot have implants.
            FlowpruneError: ``implants`` or ``start`` is none of these.
        """
        objection = _objection(module)
        if objection is not None:
            raise ModelError(objection)
        checked_name("start", start, ("zero", "centre"))
        conv: Any = module
        chosen = sorted(set(implants))
        if not 0 < len(chosen) < conv.out_channels or chosen[0] < 0 or chosen[-1] >= conv.out_channels:
            raise FlowpruneError(
                f"implants={list(implants)} are not some of {conv.out_channels} filters, but not all; number them from 0"
            )
        others = [number for number in range(conv.out_channels) if number not in set(chosen)]
        weight = conv.weight
        like = {"device": weight.device, "dtype": weight.dtype}  # from the start: float64 would lose digits on its way
        full = nn.Conv2d(
            conv.in_channels,
            len(others),
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            bias=False,
            padding_mode=conv.padding_mode,
            **like,
        )
        implant = nn.Conv2d(conv.in_channels, len(chosen), 1, conv.stride, bias=False, **like)
        with torch.no_grad():
            full.weight.copy_(weight[others])
            middle = [size // 2 for size in conv.kernel_size]
            implant.weight.zero_()
            if start == "centre":
                implant.weight.copy_(weight[chosen][:, :, middle[0], middle[1], None, None])
        new = ImplantedConvolution(full, implant, chosen, conv.bias)
        return new.to(weight.device).train(conv.training)

    def in_model(
        self,
        model: nn.Module,
        inputs: Any,
        names: Sequence[str] | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> tuple[nn.Module, list[tuple[list[str], dict[str, Any]]]]:
        """A copy of the model with implants in the convolutions that are named, and what was put where, with which options.

        Args:
            model, inputs, names: see ``replace``.
            masks: name of a weight -> which of it is not zero for good, as a decision has them: in place of ``implants``, of each
                convolution the filters of which only the middle tap is left; none where there is no such mask.
            **options: of ``replace``.
        """
        if masks is None:
            chosen = matching(model, self, names)
            return replace_modules(model, self, chosen, **options), [(chosen, options)]
        done: list[tuple[list[str], dict[str, Any]]] = []
        new = copy_of(model)
        for name, implants in implants_in(masks).items():
            if names is None or name in names:
                own = {**options, "implants": implants}
                new = replace_modules(new, self, [name], **own)
                done.append(([name], own))
        return new, done

    def restore(self, module: nn.Module) -> nn.Module | None:
        """The plain convolution with the implants as middle taps; None where there are no implants."""
        if not isinstance(module, ImplantedConvolution):
            return None
        full, weight = module.full, module.full.weight
        small = weight.new_zeros((module.implant.out_channels, *weight.shape[1:]))
        small[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = module.implant.weight.detach()[:, :, 0, 0]
        plain = nn.Conv2d(
            full.in_channels,
            len(module.order),
            full.kernel_size,  # type: ignore[arg-type]
            full.stride,  # type: ignore[arg-type]
            full.padding,  # type: ignore[arg-type]
            full.dilation,  # type: ignore[arg-type]
            bias=module.bias is not None,
            padding_mode=full.padding_mode,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            plain.weight.copy_(torch.cat([weight, small])[module.order])
            if module.bias is not None and plain.bias is not None:
                plain.bias.copy_(module.bias)
        return plain.train(module.training)


def _objection(module: nn.Module) -> str | None:
    """Why a module cannot have implants, in one line."""
    if type(module) is not nn.Conv2d or module.groups != 1:
        return f"a {type(module).__name__} cannot have implants; only a Conv2d of one group can"
    if all(size == 1 for size in module.kernel_size):
        return "its filters are 1x1 already; leave it out by names="
    if any(size % 2 == 0 for size in module.kernel_size):
        return f"its kernel {module.kernel_size} has no middle tap, so no filter of it can become 1x1; leave it out by names="
    middle = tuple(step * (size // 2) for step, size in zip(module.dilation, module.kernel_size, strict=True))
    if module.padding != middle and module.padding != "same":
        return f"with padding {module.padding} it has other places than a 1x1 convolution; leave it out by names="
    return None
