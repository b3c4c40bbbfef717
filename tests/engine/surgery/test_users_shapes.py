"""Three shapes of users' networks: pruned right in every budget mode, saved, loaded, exported."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import users_shapes
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from torch import Tensor, nn
from users_shapes import USERS_SHAPES, images_for

import flowprune as fp
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

BUDGETS = {
    "macs-global": {"macs": 0.5},
    "macs-local": {"macs": 0.5, "scope": "local"},
    "params-global": {"params": 0.5},
    "params-local": {"params": 0.5, "scope": "local"},
    "channels": {"channels": 0.5},
}
OUTPUTS = {
    "detector with a neck": {f"{branch}.{scale}.1" for branch in ("boxes", "classes") for scale in range(3)},
    "U-Net, transposed convolutions": {"mask"},
    "U-Net, interpolation": {"mask"},
    "two towers, cosine": {"left", "right"},  # a norm over channels: it changes with every one that leaves
    "two towers, concatenation": {"judge.2"},
}


def prepared(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(2)
    return randomized(USERS_SHAPES[name]()).double().eval(), images_for(name, 2)


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        found = model(*inputs)
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", USERS_SHAPES)
def test_shape_equals_its_silenced_twin(name: str, budget: str) -> None:
    model, inputs = prepared(name)
    state = copy.deepcopy(model.state_dict())
    made = plan(model, inputs, importance=L2(), **BUDGETS[budget])
    small = prune(model, made)
    assert same_state(state, model.state_dict())
    dense, twin, found = (outputs_of(network, inputs) for network in (model, silenced_twin(model, made), small))
    assert [output.shape for output in found] == [output.shape for output in dense]
    assert max(map(largest_difference, found, twin)) < 1e-10
    assert max(map(largest_difference, dense, twin)) > 1e-6
    assert made.params[1] <= 0.7 * made.params[0]
    kind = budget.partition("-")[0]
    if kind != "channels":
        before, after = getattr(made, kind)
        assert 0.47 * before <= after <= 0.5 * before
    assert {weight.rpartition(".")[0] for weight in made.frozen} == OUTPUTS[name]
    small.train()
    sum(output.sum() for output in _as_list(small(*inputs))).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("name", USERS_SHAPES)
def test_shape_survives_saving(name: str, tmp_path: Path) -> None:
    model, inputs = prepared(name)
    small = prune(model, inputs, importance=L2(), channels=0.5)
    fp.save(small, tmp_path / "small.fp")
    again = fp.load(tmp_path / "small.fp", model=USERS_SHAPES[name]().double()).eval()
    assert all(
        torch.equal(one, other) for one, other in zip(outputs_of(small, inputs), outputs_of(again, inputs), strict=True)
    )


@pytest.mark.parametrize("name", ["U-Net, transposed convolutions", "two towers, concatenation"])
def test_shape_exports(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    model, inputs = prepared(name)
    small = prune(model, inputs, importance=L2(), channels=0.5).float().eval()
    singles = tuple(image.float() for image in inputs)
    fp.export(small, singles, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    feeds = {given.name: image.numpy() for given, image in zip(session.get_inputs(), singles, strict=True)}
    (found,) = session.run(None, feeds)
    (expected,) = outputs_of(small, singles)
    assert largest_difference(torch.from_numpy(found), expected) < 1e-4


def test_the_code_of_the_page_runs() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "users-shapes.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        torch.manual_seed(0)
        exec(compile(block, page.name, "exec"), {**vars(users_shapes), "fp": fp})


def _as_list(output: Tensor | list[Tensor]) -> list[Tensor]:
    return output if isinstance(output, list) else [output]
