"""What a small installation can do: prune without torchvision, plotly and scikit-learn, and say in a line what else needs them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from documents import ROOT

WITHOUT = """
import json, sys
from importlib.machinery import PathFinder

ABSENT = ("torchvision", "plotly", "sklearn", "timm", "onnxruntime", "onnxscript", "PIL")

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from flowprune.cli import main
print(json.dumps([main(words.split()) for words in sys.argv[1:]]), file=sys.stderr)
"""


def without_extras(folder: Path, *commands: str) -> tuple[list[int], list[str]]:
    """Exit codes of the commands, and what they said on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *commands], cwd=folder, capture_output=True, text=True, timeout=600
    )
    *said, codes = done.stderr.splitlines()
    return json.loads(codes), said


def test_a_small_installation_prunes_and_says_what_else_needs_more(tmp_path: Path) -> None:
    codes, said = without_extras(
        tmp_path,
        "prune resnet8 --model-option width=8 --macs 50% --input 3x16x16 --out small.fp",
        "measure small.fp",
        "explain small.fp",
        "bench small.fp --turns 1",
        "run --out demo",
        "finetune small.fp --data cifar10 --data-dir . --out b.fp",
        "measure torchvision:resnet18",
        "export small.fp --out small.onnx",
    )
    assert codes == [0, 0, 0, 0, 2, 2, 2, 2], said
    assert [line for line in said if line.startswith("error")] == said and len(said) == 4
    assert all("pip install 'flowprune[run]'" in line for line in said[:3]), said
    assert "pip install 'flowprune[onnx]'" in said[3]
    assert [path.name for path in tmp_path.iterdir()] == ["small.fp"]


def test_the_package_itself_is_imported_in_no_time() -> None:
    """Nothing heavy is: neither torch nor numpy."""
    code = "import sys, flowprune; assert not {'torch', 'numpy', 'rich', 'pydantic'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_heavy_is_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    assert not {"torchvision", "plotly", "scikit-learn"} & needed
    extra = {requirement.partition(">")[0] for requirement in project["optional-dependencies"]["run"]}
    assert extra == {"torchvision", "plotly", "scikit-learn"}
