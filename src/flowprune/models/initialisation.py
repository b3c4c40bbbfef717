"""Random starting weights, as the networks of the CIFAR literature are trained from."""

from __future__ import annotations

from torch import nn


def initialise(model: nn.Module) -> None:
    """He's normal initialisation for every convolution and linear layer, in place.

    He et al., "Delving Deep into Rectifiers" (2015), equation 10: a weight is drawn from N(0, 2 / fan_in), so that a
    ReLU network keeps the variance of its features from layer to layer. Biases start at 0, batch norms at gamma 1 and
    beta 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
