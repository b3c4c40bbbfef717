"""The command line itself: help, spellings, what is refused before torch is imported, how an end is said, completion."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from documents import ROOT
from installed_command import forked, wait_until

from flowprune.cli import app, main
from flowprune.commands import EXAMPLES, GROUPS
from flowprune.commands.old_spellings import todays
from flowprune.errors import UnknownNameError
from flowprune.methods import names_before_import
from flowprune.models import names
from flowprune.models.own_names import OWN_NAMES
from flowprune.registry import Registry
from flowprune.studies.recipe import load_recipe
from flowprune.training import data_sets, log_lines
from flowprune.training.data_names import DATA_SETS
from flowprune.training.progress import TrainingProgress

Finished = subprocess.CompletedProcess[str]
Flowprune = Callable[..., Finished]
COMMANDS = [command for group in GROUPS.values() for command in group]

WRITE_NOTHING = ("evaluate", "measure", "bench", "explain", "predict", "methods")
EXIT_TORCH_IMPORTED = 99
WITHOUT_TORCH = f"""
import json, os, sys
from flowprune.cli import main
for line in sys.stdin:
    folder, words = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT), 2)
            code = main(words)
            sys.stderr.flush()
        finally:
            os._exit({EXIT_TORCH_IMPORTED} if "torch" in sys.modules else code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def process_without_torch() -> Iterator[subprocess.Popen[str]]:
    """One that has imported the command line, and runs every command of a line in a child of its own."""
    words = [sys.executable, "-c", WITHOUT_TORCH]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_the_help_is_one_screen_in_groups(installed: Flowprune) -> None:
    printed = installed("-h", COLUMNS="100", TERMINAL_WIDTH="100").stdout
    assert printed == installed("--help", COLUMNS="100", TERMINAL_WIDTH="100").stdout
    assert len(printed.splitlines()) <= 50
    assert all(group in printed for group in GROUPS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_help_has_an_example_that_is_understood(command: Callable[..., None]) -> None:
    """An example is parsed, not run: its options are there, and its values are of their kinds."""
    whole = typer.main.get_command(app)
    assert EXAMPLES[command]
    for example in EXAMPLES[command]:
        program, name, *arguments = shlex.split(example)
        assert (program, name) == ("flowprune", command.__name__)
        with whole.make_context("flowprune", [name, *arguments], resilient_parsing=True) as context:
            found = whole.get_command(context, name)  # type: ignore[attr-defined]
            found.make_context(name, list(arguments), parent=context)
        assert example in (found.epilog or "")


def test_options_are_named_alike() -> None:
    whole = typer.main.get_command(app)
    for name, command in whole.commands.items():  # type: ignore[attr-defined]
        shown = [option for option in command.params if not getattr(option, "hidden", False)]
        spelled = {spelling for option in shown for spelling in option.opts}
        (as_json,) = (option for option in shown if "--json" in option.opts)
        assert as_json.is_flag, name
        assert ("--out" in spelled) == (name not in WRITE_NOTHING), name
        positional = [option.name for option in shown if option.param_type_name == "argument"]
        assert not {f"--{word}" for word in positional} & spelled, name
        assert len(positional) <= (2 if name == "predict" else 1), name


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("measure a.fp --model m:build", "measure a.fp --builder m:build"),
        ("flow a.fp --json numbers.json", "flow a.fp --record numbers.json"),
        ("flow a.fp --json=n", "flow a.fp --record=n"),
        ("flow --json a.fp", "flow --json a.fp"),
        ("measure --json a.fp", "measure --json a.fp"),
        ("export a.fp a.onnx", "export a.fp --out a.onnx"),
        ("export a.fp --out a.onnx", "export a.fp --out a.onnx"),
        ("measure -- --model", "measure -- --model"),
    ],
)
def test_old_spellings_keep_working(before: str, now: str) -> None:
    assert todays(before.split()) == now.split()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("prune resnet21 --macs 0.5 --out a.fp", "did you mean 'resnet20'?"),
        ("measure resnet18", "torchvision:NAME"),
        ("measure a.fp", "no artifact a.fp"),
        ("measure a.fp --builder resnet9", "no artifact a.fp"),
        ("prune resnet8 --macs 0.5 --out a.fp --importance l3", "did you mean 'l2'?"),
        ("prune resnet8 --macs 0.5 --out a.fp --heads half", "half"),
        ("prune resnet8 --macs 0.5 --out a.fp --channels half", "write it like 0.5 or 50%"),
        ("prune resnet8 --macs 0.5 --out no/where.fp", "no folder"),
        ("prune resnet8 --macs 0.5 --outt a.fp", "--outt"),
        ("mask resnet8 --mask hetcon --out a.fp", "did you mean 'hetconv'?"),
        ("replace resnet8 --replacement linear_expanson --out a.fp", "did you mean 'linear_expansion'?"),
        ("quantize resnet8 --codec hufman --out a.fp", "did you mean 'huffman'?"),
        ("evaluate resnet8 --data digitz", "did you mean 'digits'?"),
        ("evaluate resnet8 --data digits --data-option sise=8", "did you mean 'size'?"),
        ("finetune resnet9 --out a.fp", "did you mean 'resnet8'?"),
        ("finetune resnet8 --out a.fp --set momentun=1", "did you mean 'momentum'?"),
        ("explain resnt56", "did you mean 'resnet56'?"),
        ("export resnet8 --out .", "it is a folder"),
        ("sensitivity resnet8 --shares 0.5,2", "--shares"),
        ("flow resnet8 --against resnet9", "did you mean 'resnet8'?"),
        ("toy --importance l3", "did you mean 'l2'?"),
        ("run --set networks.0.name=resnet21", "did you mean 'resnet20'?"),
        ("run --set data.name=digitz", "did you mean 'digits'?"),
        ("run missing.yaml", "cannot read the recipe missing.yaml"),
        ("compare missing.yaml", "cannot read the recipe missing.yaml"),
        ("run --out .", "not empty"),
        ("run --resume --overwrite", "one of them"),
        ("run --set training.epocs=3", "unknown key in training: 'epocs'; did you mean 'epochs'?"),
        ("run --set pruning.importance.name=l3", "did you mean 'l2'?"),
        ("run --method l9", "unknown method 'l9'"),
        ("finetune resnet8 --out a.fp --teacher resnet9", "did you mean 'resnet8'?"),
        ("prune resnet8 --out a.fp", "exactly one budget"),
        ("prune resnet8 --macs 0.5 --params 0.5 --out a.fp", "exactly one budget"),
        ("prune resnet8 --macs 0.5 --out a.fp --round-to x", "use a whole number, such as 8, or auto"),
        ("measure resnet8 --input 3by3", "write it like 3x32x32"),
        ("measure resnet8 --model-option width", "--model-option 'width': expected key=value"),
        ("evaluate resnet8 --device gpu", "use cpu, cuda, cuda:1 or mps"),
        ("bench resnet8 --backend onx", "known: compiled, onnxruntime, pytorch"),
        ("predict resnet8 nowhere.png", "no picture nowhere.png"),
        ("report nowhere", "there is no such file"),
        ("flow resnet8 --out no/where.html", "no folder"),
        ("toy --out a.png", "name it like page.html"),
        ("compress resnet8 --macs 150% --data digits", "above 0 and below 1"),
        ("compress resnet8 --data digits", "one of --macs, --latency and --max-drop"),
        ("compress resnet8 --macs 0 --data digits", "above 0 and below 1"),
        ("compress resnet8 --data digits --max-drop 0.5 --validation-images 100", "at least 539"),
        ("compress resnet8 --macs 50% --data digitz --importance l3", "did you mean 'l2'?"),
    ],
)
def test_what_needs_no_library_is_refused_before_torch_is_imported(
    arguments: str, said: str, tmp_path: Path, process_without_torch: subprocess.Popen[str]
) -> None:
    assert process_without_torch.stdin is not None and process_without_torch.stdout is not None
    process_without_torch.stdin.write(json.dumps([str(tmp_path), arguments.split()]) + "\n")
    process_without_torch.stdin.flush()
    code = int(process_without_torch.stdout.readline())
    line = (tmp_path / "said").read_text()
    assert code == 2, line
    assert said in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "library"),
    [
        ("evaluate torchvision:resnet19 --data cifar10", "torchvision"),
        ("run --set networks.0.name=torchvision:resnet19 --set data.name=cifar10", "torchvision"),
        ("finetune timm:resnet19 --data cifar10 --out a.fp", "timm"),
    ],
)
def test_names_of_other_libraries_are_refused_before_data_is_looked_for(
    arguments: str, library: str, refused: Callable[..., str]
) -> None:
    pytest.importorskip(library)
    assert "did you mean 'resnet18'?" in refused(*arguments.split())


def test_names_known_early_are_those_that_there_are() -> None:
    from flowprune.methods.importance import REGISTRY

    assert set(OWN_NAMES) == set(names())
    assert set(DATA_SETS) == set(data_sets())
    assert names_before_import("importance") == list(REGISTRY)


def test_of_equally_near_names_the_one_that_begins_alike_is_suggested() -> None:
    for typed, meant in (
        ("resnet21", "resnet20"),
        ("resnet57", "resnet56"),
        ("vgg17", "vgg16"),
        ("resnet100", "resnet110"),
    ):
        assert UnknownNameError("model", typed, names()).nearest == meant


def test_per_cent_is_understood_wherever_a_share_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = "vgg6 --model-option width=4 --input 3x8x8 --overwrite --json --out a.fp"

    def done(command: str, options: str) -> object:
        assert main([command, *network.split(), *options.split()]) == 0
        return json.loads(capfd.readouterr().out)

    for command, options in (
        ("prune", "--macs 50% --largest-cut 60%"),
        ("prune", "--channels-of *=50% --largest-cut-of *=25%"),
        ("mask", "--keep 50%"),
        ("quantize", "--bytes 50%"),
    ):
        assert done(command, options) == done(command, re.sub(r"(\d+)%", r"0.\1", options)), options
    shares = ["pruning.largest_cut=60%", "flow.target_dead=30%", "pruning.budgets.1={threshold: 40%}"]
    assert load_recipe(None, shares) == load_recipe(None, [re.sub(r"(\d+)%", r"0.\1", one) for one in shares])
    of_method: Registry[Any] = Registry("method", "flowprune.methods.importance")
    of_method.register("kept")(lambda share, strength: (share, strength))
    of_method["kept"].__annotations__.update(share="float | Mapping[str, float]", strength="float | str")
    assert of_method.built("kept", {"share": "50%", "strength": "5%"}) == (0.5, "5%")
    assert of_method.built("kept", {"share": {"*": "50%"}, "strength": 1}) == ({"*": 0.5}, 1)


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["prune", "vgg6", "--model-option", "width=4", "--input", "3x8x8", "--macs", "50%", "--out", "a.fp"]
    page = ["report", str(ROOT / "results" / "runs" / "digits-seed0.json"), "--out", "a.html"]
    before = os.umask(0o027)
    try:
        assert [main(words) for words in (small, page)] == [0, 0]
    finally:
        os.umask(before)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {
        "a.fp": 0o640,
        "a.html": 0o640,
    }


def test_a_terminated_run_says_how_to_go_on(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "network: {name: resnet8, options: {in_channels: 1}}\ndata: {name: digits}\ntraining: {epochs: 500}\n"
    )
    out = tmp_path / "run"
    process = forked("run", recipe, "--out", out)
    wait_until(out / "recipe.yaml", process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[1].splitlines()[-1]
    assert process.returncode == 143
    assert said == f"terminated; `flowprune run {recipe} --out {out} --resume` goes on where it stopped"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress("training", 4, 0, True) as bar:
        bar.step()
    assert capfd.readouterr().err == ""  # ten seconds have not passed
    monkeypatch.setattr(log_lines, "EVERY", 0.0)
    with TrainingProgress("training", 4, 0, True) as bar:
        bar.step()
        bar.figures("epoch 1/1")
    assert capfd.readouterr().err == "training: 25 %\ntraining: 25 %, epoch 1/1\n"
    with TrainingProgress("training", 4, 0, False) as bar:
        bar.step()
    assert capfd.readouterr().err == ""


def test_a_command_that_says_nothing_of_its_progress_is_heard_from(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log_lines, "EVERY", 0.0)
    assert main(["explain", "resnet8"]) == 0
    said = capfd.readouterr()
    assert re.fullmatch(r"(explain: at work for \d+ s\n)+", said.err) and "at work" not in said.out
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["explain", "vgg6"]) == 0
    assert capfd.readouterr().err == ""


def test_a_shell_completes_names(installed: Flowprune) -> None:
    def offered(words: str) -> list[str]:
        variables = {
            "_FLOWPRUNE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        return installed(**variables).stdout.split()

    assert offered("flowprune pru") == ["prune"]
    assert offered("flowprune prune resnet5") == ["resnet56"]
    assert offered("flowprune prune resnet56 --importance nucl") == ["nuclear_norm"]
    assert offered("flowprune evaluate resnet56 --data cifar10") == ["cifar10", "cifar100"]
    assert offered("flowprune quantize a.fp --codec spar") == ["sparse_huffman"]
