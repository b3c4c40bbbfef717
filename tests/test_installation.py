"""What a wheel installs, far from the checkout: it prunes without torchvision, plotly and scikit-learn, and says so in a line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest
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
sys.path.insert(0, sys.argv[1])
import flowprune
from flowprune.cli import main
assert flowprune.__file__.startswith(sys.argv[1]), flowprune.__file__
print(json.dumps([main(words.split()) for words in sys.argv[2:]]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of this checkout was unpacked."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(site)], cwd=source, check=True, capture_output=True, timeout=600)
    (wheel,) = site.glob("flowprune-*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    return site


def without_extras(installed: Path, folder: Path, *commands: str) -> tuple[list[int], list[str]]:
    """Exit codes of the commands, and what they said on standard error."""
    words = [sys.executable, "-c", WITHOUT, str(installed), *commands]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600)
    *said, codes = done.stderr.splitlines()
    return json.loads(codes), said


def test_a_small_installation_prunes_and_says_what_else_needs_more(installed: Path, tmp_path: Path) -> None:
    codes, said = without_extras(
        installed,
        tmp_path,
        "prune resnet8 --model-option width=8 --macs 50% --input 3x16x16 --out small.fp",
        "measure small.fp",
        "explain small.fp",
        "bench small.fp --turns 1",
        "methods",
        "run --out demo",
        "finetune small.fp --data cifar10 --data-dir . --out b.fp",
        "measure torchvision:resnet18",
        "export small.fp --out small.onnx",
    )
    assert codes == [0, 0, 0, 0, 0, 2, 2, 2, 2], said
    said = [line for line in said if ": at work for " not in line]  # on a busy machine
    assert [line for line in said if line.startswith("error")] == said and len(said) == 4
    assert all("pip install 'flowprune[run]'" in line for line in said[:3]), said
    assert "pip install 'flowprune[onnx]'" in said[3]
    assert [path.name for path in tmp_path.iterdir()] == ["small.fp"]


def test_the_wheel_holds_what_is_no_code_and_the_command(installed: Path) -> None:
    inside = {path.relative_to(ROOT / "src") for path in (ROOT / "src" / "flowprune").rglob("*") if path.is_file()}
    kept = {path for path in inside if path.suffix not in (".pyc",)}
    assert {path for path in kept if not (installed / path).is_file()} == set()
    (distribution,) = Distribution.discover(path=[str(installed)])
    assert {point.name: point.value for point in distribution.entry_points} == {"flowprune": "flowprune.cli:main"}
    assert set(distribution.metadata.get_all("Provides-Extra") or ()) >= {"run", "onnx", "zoo"}


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
