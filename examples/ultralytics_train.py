"""Prune a YOLO and train it on, by Ultralytics' own trainer; what comes out is an ordinary checkpoint of that library.

    pip install flowprune ultralytics
    python examples/ultralytics_train.py yolov8n.pt coco8.yaml --macs 0.5 --epochs 100

The trainer builds its network in ``get_model``; there half of its multiply-accumulates leave. Detection, segmentation, poses and
oriented boxes go the same way, each with the trainer of its task. ``YOLO("runs/detect/train/weights/best.pt")`` then predicts,
validates and exports as ever.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import flowprune as fp


def split_as_exported(model: nn.Module) -> None:
    """Ultralytics' exporters run another forward of some blocks, which splits by a number of the block. Only a number that the
    traced forward reads is mended, so that forward is the one to trace."""
    for kind in {type(module) for module in model.modules()}:
        if hasattr(kind, "forward_split"):
            kind.forward = kind.forward_split


def pruned_trainer(macs: float) -> type[DetectionTrainer]:
    """A trainer of detectors that keep this share of their multiply-accumulates."""

    class PrunedTrainer(DetectionTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            dense = super().get_model(cfg, weights, verbose)
            split_as_exported(dense)
            images = torch.zeros(1, 3, self.args.imgsz, self.args.imgsz)
            plan = fp.plan(dense, images, importance=fp.importance.L2(), macs=macs)
            print(plan)
            return fp.prune(dense, plan)

    return PrunedTrainer


def main() -> None:
    """Train what is pruned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="a checkpoint, or a configuration such as yolov8n.yaml for random weights")
    parser.add_argument("data", help="a data set in Ultralytics' form")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-accumulates that is kept")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--size", type=int, default=640, help="height and width of the images")
    parser.add_argument("--device", default=None)
    parser.add_argument("--export", default=None, metavar="FORMAT", help="for example onnx")
    given = parser.parse_args()
    network = YOLO(given.weights)
    network.train(
        trainer=pruned_trainer(given.macs), data=given.data, epochs=given.epochs, imgsz=given.size, device=given.device
    )
    if given.export:
        YOLO(network.trainer.best).export(format=given.export, imgsz=given.size)


if __name__ == "__main__":
    main()
