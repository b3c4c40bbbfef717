"""Networks of diffusers that take images: ``zoo.from_diffusers:unet``.

    pip install diffusers

What they are given beside images (a time step, a text, a class) is fixed. Sizes are those of small published models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class OfImages(nn.Module):
    """A network with everything but its first argument fixed."""

    def __init__(self, network: nn.Module, **fixed: Any) -> None:
        super().__init__()
        self.network = network
        for name, value in fixed.items():
            self.register_buffer(name, value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's first output."""
        fixed = dict(self.named_buffers(recurse=False))
        output: torch.Tensor = self.network(images, **fixed, return_dict=False)[0]
        return output


def unet() -> nn.Module:
    """As DDPM has it for CIFAR-10."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=64,
    )
    return OfImages(network, timestep=torch.tensor(5))


def unet_with_text() -> nn.Module:
    """Stable Diffusion's, with a quarter of its channels."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(96, 160, 320, 320), cross_attention_dim=192
    )
    text = torch.randn(2, 7, 192, generator=torch.Generator().manual_seed(0))
    return OfImages(network, timestep=torch.tensor(5), encoder_hidden_states=text)


def autoencoder() -> nn.Module:
    """Stable Diffusion's."""
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    network = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **kinds)
    return OfImages(network)


def transformer() -> nn.Module:
    """DiT-S/2."""
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(num_attention_heads=6, attention_head_dim=64, in_channels=3, num_layers=12)
    return OfImages(network, timestep=torch.tensor([5, 5]), class_labels=torch.tensor([1, 2]))
