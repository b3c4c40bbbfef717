"""A user's Lightning training: a module, data, and a trainer that keeps quiet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as lightning
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import flowprune as fp

BATCHES = 4


class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """What a user writes: nothing in it knows of flowprune."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]), batch_size=8)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self)


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("resnet8", in_channels=1, width=4).to(dtype)


def loader(dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8 * BATCHES, 1, 8, 8, generator=generator, dtype=dtype)
    return DataLoader(TensorDataset(images, torch.randint(10, (8 * BATCHES,), generator=generator)), batch_size=8)


def trainer(folder: Path, callback: Any, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"accelerator": "cpu", "devices": 1, "default_root_dir": folder, "enable_checkpointing": False}
    callbacks = [callback] if callback is not None else []
    return lightning.Trainer(**{**quiet, **defaults, "max_epochs": 4, "callbacks": callbacks, **options})
