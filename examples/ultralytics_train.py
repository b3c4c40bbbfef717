"""Train a YOLO with feature flow regularization, or prune it and train it on, by Ultralytics' own trainer; what comes out is an
ordinary checkpoint of that library.

    pip install flowprune ultralytics
    python examples/ultralytics_train.py yolov8n.pt coco8.yaml --flow 5% --epochs 100
    python examples/ultralytics_train.py runs/detect/train/weights/best.pt coco8.yaml --macs 0.5 --epochs 100

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
from ultralytics.utils.torch_utils import unwrap_model

import flowprune as fp


def split_as_exported(model: nn.Module) -> None:
    """Ultralytics' exporters run another forward of some blocks, which splits by a number of the block. Only a number that the
    traced forward reads is mended, so that forward is the one to trace."""
    for kind in {type(module) for module in model.modules()}:
        if hasattr(kind, "forward_split"):
            kind.forward = kind.forward_split


def regularize(trainer: DetectionTrainer, strength: str) -> None:
    """Add the penalty to the loss of the trainer's network.

    A network of Ultralytics computes its loss inside of its forward, from a batch that is a dictionary. So the points are found on
    images alone, and the penalty joins the loss as the forward returns it.
    """
    model = unwrap_model(trainer.model)
    images = torch.zeros(2, 3, trainer.args.imgsz, trainer.args.imgsz, device=trainer.device)
    flow = fp.FeatureFlow(model, strength, strength, inputs=images)

    def add_penalty(module: nn.Module, _: Any, output: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return output
        loss, items = output
        total = loss.sum()
        return total + flow.penalty(total.detach()), items

    # Hooks run in the order they came: this one when the flow has seen the whole forward.
    hook = model.register_forward_hook(add_penalty)

    def leave(_: DetectionTrainer) -> None:
        hook.remove()
        flow.close()

    trainer.add_callback("on_train_end", leave)


def trainer_with(macs: float | None, strength: str | None) -> type[DetectionTrainer]:
    """A trainer of detectors that keep this share of their multiply-accumulates and are regularized so strongly."""

    class Trainer(DetectionTrainer):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            if strength is not None:
                self.add_callback("on_train_start", lambda trainer: regularize(trainer, strength))

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            dense = super().get_model(cfg, weights, verbose)
            if macs is None:
                return dense
            split_as_exported(dense)
            images = torch.zeros(1, 3, self.args.imgsz, self.args.imgsz)
            plan = fp.plan(dense, images, importance=fp.importance.L2(), macs=macs)
            print(plan)
            return fp.prune(dense, plan)

    return Trainer


def main() -> None:
    """Train it regularized, or pruned, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="a checkpoint, or a configuration such as yolov8n.yaml for random weights")
    parser.add_argument("data", help="a data set in Ultralytics' form")
    parser.add_argument("--macs", type=float, help="share of the multiply-accumulates that is kept; all unless given")
    parser.add_argument("--flow", metavar="5%", help="strength of the penalty, a share of the loss; none unless given")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--size", type=int, default=640, help="height and width of the images")
    parser.add_argument("--device", default=None)
    parser.add_argument("--export", default=None, metavar="FORMAT", help="for example onnx")
    given = parser.parse_args()
    network = YOLO(given.weights)
    trainer = trainer_with(given.macs, given.flow)
    network.train(trainer=trainer, data=given.data, epochs=given.epochs, imgsz=given.size, device=given.device)
    if given.export:
        YOLO(network.trainer.best).export(format=given.export, imgsz=given.size)


if __name__ == "__main__":
    main()
