"""A network of mixed precision as ONNX: whole numbers in the file, and in ONNX Runtime the decisions of the network here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.artifacts.onnx_session import OnnxModel
from flowprune.methods.quantizers._channelwise.pact import step_of
from flowprune.methods.replacements.pact_layers import PactLinear

IMAGE = torch.zeros(2, 1, 8, 8)


def on_grids() -> nn.Module:
    torch.manual_seed(0)
    model = fp.models.create("resnet8", in_channels=1, width=4)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 1, 8, 8))
    model = fp.replace(model.eval(), IMAGE, replacement="folded_norms")
    model = fp.replace(model, IMAGE, replacement="pact", bits=8, clip=4.0)
    widths = torch.tensor([2, 4, 8])
    own = {
        name: widths[torch.randint(0, 3, (len(weight),))].tolist()
        for name, weight in model.named_parameters()
        if name.endswith("weight")
    }
    return fp.quantize(model, IMAGE, quantizer="mixed_precision", codec="channel_bits", bits=own).eval()


def test_onnx_runtime_decides_as_the_network_on_grids(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = on_grids()
    done = fp.export(model, IMAGE, tmp_path / "few.onnx")
    assert done.dynamic_batch
    graph = onnx.load(tmp_path / "few.onnx").graph
    kinds = [node.op_type for node in graph.node]
    layers = sum(isinstance(one, (nn.Conv2d, nn.Linear)) for one in model.modules())
    assert kinds.count("QuantizeLinear") == layers and kinds.count("DequantizeLinear") == 2 * layers
    whole = [one for one in graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1]
    assert len(whole) == layers
    images = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model(images)
    theirs = OnnxModel(tmp_path / "few.onnx")(images)
    last = model.linear
    assert isinstance(last, PactLinear)
    widest = last.weight.detach().abs().amax()  # of one step of what the last layer reads
    quantum = float(step_of(last.clip.detach(), 8) * widest)
    within = ((ours - theirs).abs().amax(1) <= quantum).float().mean()
    assert within >= 0.99 and (ours.argmax(1) == theirs.argmax(1)).float().mean() >= 0.99
