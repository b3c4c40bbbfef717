"""Modules are found by the names they had in version 0.1: as the same modules, whichever name is imported first."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import pytest
import torch

import flowprune as fp
from flowprune.old_paths import TODAY

TYPED = """
from flowprune.coupling import pointwise, rule
from flowprune.flow import FeatureFlow, FlowPaths, FlowProfile, Point, PointProfile, StagePaths, flow_paths
from flowprune.importance import L2
from flowprune.importance.l1 import L1
from flowprune.importance.protocol import Importance
from flowprune.importance.registry import REGISTRY
from flowprune.integrations.session import FlowSession
from flowprune.iterating import prune_iteratively
from flowprune.models.resnet import BasicBlock
from flowprune.pipeline.run import run
from flowprune.recipe import load_recipe
from flowprune.regularizers import Regularizer
from flowprune.training import TrainingSettings
import flowprune.importance.nuclear_norm

import flowprune, flowprune.methods.importance, flowprune.methods.importance.registry

assert flowprune.importance is flowprune.methods.importance and flowprune.importance.L2 is L2
assert flowprune.importance.nuclear_norm is sys.modules["flowprune.methods.importance.nuclear_norm"]
assert flowprune.methods.importance.registry.REGISTRY is REGISTRY and REGISTRY["l2"] is L2
assert flowprune.methods.importance.__spec__.name == "flowprune.methods.importance" == L2.__module__.rpartition(".")[0]
assert flowprune.importance.L1 is L1
assert flowprune.FeatureFlow is FeatureFlow and flowprune.flow_paths is flow_paths
"""


def test_what_people_typed_in_version_0_1_is_found_first_thing() -> None:
    subprocess.run([sys.executable, "-c", f"import sys\n{TYPED}"], check=True)


def test_what_people_typed_in_version_0_1_is_what_is_there_already() -> None:
    importlib.import_module("flowprune.methods.importance.nuclear_norm")
    exec(TYPED, {"sys": sys})


@pytest.mark.parametrize("old", TODAY)
def test_every_row_of_the_table_leads_to_the_module_of_today(old: str) -> None:
    found = importlib.import_module(old)
    homes = [importlib.import_module(home) for home in TODAY[old]]
    assert found is homes[0] or len(homes) > 1
    for home in homes:
        assert all(getattr(found, name) is getattr(home, name) for name in getattr(home, "__all__", ()))


def test_a_pickle_that_names_an_old_module_loads() -> None:
    from flowprune.engine.surgery.branch_modules import AddedConstant

    assert pickle.loads(b"cflowprune.surgery.branch_modules\nAddedConstant\n.") is AddedConstant


def test_what_never_was_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        importlib.import_module("flowprune.importance.nonsense")
    with pytest.raises(ModuleNotFoundError, match=r"flowprune\.nonsense"):
        importlib.import_module("flowprune.nonsense")


def test_example_inputs_are_taken_by_the_keyword_of_version_0_1() -> None:
    model, inputs = torch.nn.Linear(3, 4), torch.zeros(1, 3)
    with pytest.warns(DeprecationWarning, match=r"measure\(inputs=\.\.\.\) now") as said:
        found = fp.measure(model, x=inputs)  # type: ignore[call-arg]
    assert found == fp.measure(model, inputs=inputs)
    assert said[0].filename == __file__
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        fp.measure(model, inputs=inputs, x=inputs)  # type: ignore[call-arg]
