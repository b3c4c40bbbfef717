"""Two processes, one calibration."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from import_server import start_method
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.models.resnet import CifarResNet

PROCESSES, BATCHES = 2, 12


def batch(rank: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * rank + index)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def train(rank: int, port: int, folder: str, wrapped_first: bool) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    model = CifarResNet(1, width=4)
    if wrapped_first:
        runner = DistributedDataParallel(model)
        flow = FeatureFlow(runner, gradient="5%")
    else:
        flow = FeatureFlow(model, gradient="5%")
        runner = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(runner.parameters(), lr=0.05)
    task, terms = [], []
    for index in range(BATCHES):
        x, y = batch(rank, index)
        loss = functional.cross_entropy(runner(x), y)
        if index < 10:
            task.append(loss.item())
        total = loss + flow.penalty()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if index < 10:
            terms = flow.state_dict()["terms"]["gradient"]
    torch.save(
        {
            "task": sum(task),
            "term": terms,
            "coefficient": flow.coefficients["gradient"],
            "weights": model.linear.weight.detach().clone(),
        },
        f"{folder}/{rank}.pt",
    )
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this build of torch has no torch.distributed")
@pytest.mark.parametrize("wrapped_first", [False, True])
def test_every_process_goes_on_with_the_same_coefficient(tmp_path: Path, wrapped_first: bool):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        train, (port, str(tmp_path), wrapped_first), nprocs=PROCESSES, start_method=start_method()
    )
    seen = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
    assert seen[0]["task"] != seen[1]["task"]
    expected = 0.05 * sum(part["task"] for part in seen) / sum(part["term"] for part in seen)
    assert seen[0]["coefficient"] == seen[1]["coefficient"] == pytest.approx(expected, rel=1e-9)
    assert torch.equal(seen[0]["weights"], seen[1]["weights"])
