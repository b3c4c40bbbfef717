"""The commands of the command line, one file each."""

from __future__ import annotations

from flowprune.commands.compare import compare
from flowprune.commands.evaluate import evaluate
from flowprune.commands.explain import explain
from flowprune.commands.export import export
from flowprune.commands.finetune import finetune
from flowprune.commands.flow import flow
from flowprune.commands.measure import measure
from flowprune.commands.methods import methods
from flowprune.commands.prune import prune
from flowprune.commands.report import report
from flowprune.commands.run import run
from flowprune.commands.sensitivity import sensitivity
from flowprune.commands.toy import toy

COMMANDS = (run, prune, finetune, evaluate, measure, explain, export, report, compare, sensitivity, flow, toy, methods)

__all__ = ["COMMANDS"]
