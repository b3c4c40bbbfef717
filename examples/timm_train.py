"""A training script made of timm's parts, with feature flow regularization. Every line that it takes ends in ``# flow``.

    python examples/timm_train.py --model test_resnet --epochs 10 --mixup 0.2 --flow 5% --keep-macs 0.5 --output runs/timm

timm has no trainer to call back into: its users have a copy of its ``train.py``. This is such a script, small enough to read: its
model, optimizer, schedule, mixup, exponential moving average and gradient scaler, accumulated batches, resuming. It trains on
scikit-learn's digits; put your own ``create_dataset`` and ``create_loader`` in the place of ``digits``.
"""

from __future__ import annotations

import argparse
import json  # flow
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from timm import create_model
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy, random_seed
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import flowprune as fp  # flow
from flowprune.integrations.session import Session  # flow


def parser() -> argparse.ArgumentParser:
    """Options named as those of timm's own script, and those for the flow."""
    options = argparse.ArgumentParser(description="Train a timm model on digits with feature flow regularization.")
    options.add_argument("--model", default="test_resnet")
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--batch-size", type=int, default=50)
    options.add_argument("--opt", default="sgd")
    options.add_argument("--lr", type=float, default=0.05)
    options.add_argument("--weight-decay", type=float, default=1e-3)
    options.add_argument("--sched", default="cosine")
    options.add_argument("--mixup", type=float, default=0.0)
    options.add_argument("--grad-accum-steps", type=int, default=1)
    options.add_argument("--clip-grad", type=float)
    options.add_argument("--amp", choices=["bfloat16", "float16"])
    options.add_argument("--model-ema", action="store_true")
    options.add_argument("--seed", type=int, default=42)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--output", type=Path)
    options.add_argument("--resume", type=Path, help="a checkpoint of this script")
    options.add_argument("--stop-after", type=int, help="leave after this many epochs, as if killed")
    options.add_argument("--flow", metavar="5%", help="strength: a share of the loss")  # flow
    options.add_argument("--regularizers", type=json.loads, default={}, help='others: {"wgsef": {"keep": 0.5}}')  # flow
    options.add_argument("--target-dead", type=float, help="steer the strength to this share of dead filters")  # flow
    options.add_argument("--keep-macs", type=float, help="in the end, prune to this share of the MACs")  # flow
    return options


def digits(training: bool) -> TensorDataset:
    """Every fifth digit is kept for the evaluation; 32x32, because timm's networks begin with strides."""
    images, labels = load_digits(return_X_y=True)
    pixels = functional.interpolate(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, scale_factor=4)
    chosen = (torch.arange(len(labels)) % 5 != 0) == training
    return TensorDataset(pixels[chosen], torch.tensor(labels)[chosen])


def autocast(args: argparse.Namespace) -> AbstractContextManager[object]:
    """What the forward pass and the loss run under."""
    return torch.autocast(args.device, dtype=getattr(torch, args.amp)) if args.amp else nullcontext()


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[torch.Tensor, ...]],
    optimizer: torch.optim.Optimizer,
    loss_fn: nn.Module,
    args: argparse.Namespace,
    session: Session | None,  # flow
    loss_scaler: NativeScaler | None = None,
    model_ema: ModelEmaV3 | None = None,
    mixup_fn: Mixup | None = None,
) -> float:
    """The mean loss."""
    losses = AverageMeter()
    model.train()
    optimizer.zero_grad()
    last = len(loader) - 1
    for index, (images, target) in enumerate(loader):
        images, target = images.to(args.device), target.to(args.device)
        if mixup_fn is not None:
            images, target = mixup_fn(images, target)
        need_update = index == last or (index + 1) % args.grad_accum_steps == 0
        # The batches left over at the end of an epoch make a smaller step.
        together = min(args.grad_accum_steps, len(loader) - index // args.grad_accum_steps * args.grad_accum_steps)
        with autocast(args):
            loss = loss_fn(model(images), target)
            if session is not None:  # flow
                loss = loss + session.penalty(loss.detach(), batch=(images, target))  # flow
        losses.update(loss.item(), images.shape[0])
        loss = loss / together
        if loss_scaler is not None:
            loss_scaler(
                loss, optimizer, clip_grad=args.clip_grad, parameters=model.parameters(), need_update=need_update
            )
        else:
            loss.backward()
            if need_update:
                if args.clip_grad is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad)
                optimizer.step()
        if need_update:
            optimizer.zero_grad()
            if model_ema is not None:
                model_ema.update(model)
    return float(losses.avg)


@torch.no_grad()
def validate(model: nn.Module, args: argparse.Namespace) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    top1 = AverageMeter()
    for images, target in DataLoader(digits(training=False), batch_size=180):
        with autocast(args):
            output = model(images.to(args.device))
        (correct,) = accuracy(output, target.to(args.device))
        top1.update(correct.item(), len(images))
    return float(top1.avg)


def main(arguments: Sequence[str] | None = None) -> nn.Module:
    """Train, and prune if asked to; returns the model."""
    args = parser().parse_args(arguments)
    random_seed(args.seed)
    model = create_model(args.model, in_chans=1, num_classes=10).to(args.device)
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=args.weight_decay)
    lr_scheduler, num_epochs = create_scheduler_v2(optimizer, sched=args.sched, num_epochs=args.epochs)
    mixup_fn = Mixup(mixup_alpha=args.mixup, num_classes=10) if args.mixup > 0 else None
    loss_fn = SoftTargetCrossEntropy() if mixup_fn is not None else nn.CrossEntropyLoss()
    loss_scaler = NativeScaler(device=args.device) if args.amp == "float16" else None
    model_ema = ModelEmaV3(model, decay=0.99) if args.model_ema else None

    training = digits(training=True)
    state = None  # flow
    start_epoch = 0
    if args.resume is not None:
        start_epoch = resume_checkpoint(model, str(args.resume), optimizer, loss_scaler) or 0
        checkpoint = torch.load(args.resume, map_location=args.device, weights_only=True)
        if model_ema is not None:
            model_ema.module.load_state_dict(checkpoint["state_dict_ema"])
        state = checkpoint.get("regularizers")  # flow
        lr_scheduler.step(start_epoch)

    session = None  # flow
    example = training[0][0][None].to(args.device)  # flow
    methods = {name: {"inputs": example, **options} for name, options in args.regularizers.items()}  # flow
    if args.flow is not None:  # flow
        methods["ffr"] = {"gradient": args.flow, "target_dead": args.target_dead}  # flow
    if methods:  # flow
        session = Session(model, methods, epochs=num_epochs, state=state)  # flow
        steps = -(-(len(training) // args.batch_size) // args.grad_accum_steps)  # flow
        session.begin(optimizer, steps=steps)  # flow

    for epoch in range(start_epoch, num_epochs):
        random_seed(args.seed, epoch + 1)
        loader = DataLoader(training, batch_size=args.batch_size, shuffle=True, drop_last=True)
        loss = train_one_epoch(
            model,
            loader,
            optimizer,
            loss_fn,
            args,
            session=session,  # flow
            loss_scaler=loss_scaler,
            model_ema=model_ema,
            mixup_fn=mixup_fn,
        )
        lr_scheduler.step(epoch + 1)
        if session is not None:  # flow
            session.end_epoch(epoch + 1)  # flow
        report = f"epoch {epoch}: loss {loss:.4f}, top-1 {validate(model, args):.2f} %"
        if session is not None:  # flow
            dead = session.metrics.get("dead_share")  # flow
            report += "" if dead is None else f", {dead:.1%} of the filters are dead"  # flow
        print(report)
        if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
            saved = {"epoch": epoch, "version": 2, "arch": args.model, "state_dict": model.state_dict()}
            saved["optimizer"] = optimizer.state_dict()
            if loss_scaler is not None:
                saved[loss_scaler.state_dict_key] = loss_scaler.state_dict()
            if model_ema is not None:
                saved["state_dict_ema"] = model_ema.module.state_dict()
            if session is not None:  # flow
                saved["regularizers"] = session.state_dict()  # flow
            torch.save(saved, args.output / f"checkpoint-{epoch}.pth.tar")
        if args.stop_after is not None and epoch + 1 >= args.stop_after:
            break

    if session is not None:  # flow
        session.close()  # flow
    if args.keep_macs is not None:  # flow
        plan = fp.plan(model, training[0][0][None], importance=fp.importance.L2(), macs=args.keep_macs)  # flow
        print(plan)  # flow
        model = fp.prune(model, plan)  # flow
    return model


if __name__ == "__main__":
    main()
