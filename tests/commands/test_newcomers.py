"""The package of docs/add-a-method.md: found by commands, recipes and the listing, and loaded where it is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from documents import blocks

PAGE = "docs/add-a-method.md"
STEPS = ["scaled", "every_other", "signs", "two_bits"]
"""What of the package an artifact names."""
NETWORK = "resnet8 --model-option width=4 --input 3x16x16"
RANKED = "--importance last_is_best --importance-option factor=2 --allocator largest_first"
COMMANDS = {
    "methods": "methods",
    "json": "methods --json",
    "run": "run recipe.yaml --out run",
    "prune": f"prune {NETWORK} --macs 0.6 {RANKED} --out small.fp",
    "replace": "replace small.fp --replacement scaled --replacement-option start=2.0 --out wide.fp",
    "refused": "mask wide.fp --mask every_other --out sparse.fp",
    "mask": "mask wide.fp --mask every_other --allow scaled --out sparse.fp",
    "quantize": "quantize sparse.fp --quantizer signs --codec two_bits --allow scaled --allow every_other --out packed.fp",
    "measure": f"measure packed.fp --json {' '.join(f'--allow {name}' for name in STEPS)}",
    "slip": f"prune {NETWORK} --macs 0.6 --importance last_is_bets --out no.fp",
    "option": "mask small.fp --mask every_other --mask-option every=3 --out no.fp",
    "share": "mask small.fp --mask every_other --keep 0.3 --out no.fp",
}
SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
from flowprune.artifacts import load, read_header
from flowprune.cli import main
from flowprune.errors import ArtifactError

def said(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return [main(words), out.getvalue(), err.getvalue()]

found = {name: said(words.split()) for name, words in json.loads(sys.argv[1]).items()}

def loaded(path, allow):
    try:
        load(path, allow=allow)
        return sorted(step.kind for step in read_header(path).steps)
    except ArtifactError as error:
        return str(error)

*rest, packed = sorted(Path("run/models").glob("*.fp"), key=lambda path: path.stat().st_mtime_ns)
steps = json.loads(sys.argv[2])
found["loads"] = [loaded(packed, steps[:count]) for count in range(len(steps) + 1)]
found["small"] = loaded("small.fp", ())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command gave where the package is installed: exit code, standard output, standard error; all in one process."""
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    (site / "newcomers.py").write_text("\n\n".join(blocks(PAGE, "python")))
    record = site / "newcomers-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: newcomers\nVersion: 1.0\n")
    groups = tomllib.loads(blocks(PAGE, "toml")[0])["project"]["entry-points"]
    lines = [line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))]
    (record / "entry_points.txt").write_text("\n".join(lines))
    (work / "recipe.yaml").write_text(blocks(PAGE, "yaml")[0])
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(COMMANDS), json.dumps(STEPS)],
        cwd=work,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "results": json.loads((work / "run" / "results.json").read_text())}


def points() -> dict[str, dict[str, str]]:
    """Room -> name -> class, as the page has them."""
    groups = tomllib.loads(blocks(PAGE, "toml")[0])["project"]["entry-points"]
    return {group.removeprefix("flowprune."): dict(named) for group, named in groups.items()}


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, named in points().items() for name in named])
def test_the_listing_shows_it_with_what_it_says_of_itself(room: str, name: str, found: dict[str, Any]) -> None:
    code, listed, _ = found["methods"]
    kind = points()[room][name].partition(":")[2]
    (about,) = [
        block.partition(f"class {kind}")[2].split('"""')[1]
        for block in blocks(PAGE, "python")
        if f"class {kind}" in block
    ]
    (line,) = [line for line in listed.splitlines() if line.split()[:1] == [name]]
    assert code == 0 and about in line
    assert name in json.loads(found["json"][1])[room]


def test_a_recipe_of_all_of_them_runs(found: dict[str, Any]) -> None:
    recipe = yaml.safe_load(blocks(PAGE, "yaml")[0])
    named = json.dumps(recipe["phases"])
    assert all(name in named for names in points().values() for name in names)
    code, _, error = found["run"]
    assert code == 0, error
    dense, *_, packed = found["results"]["rows"]
    assert packed["macs"] <= 0.6 * dense["macs"] and packed["stage"] == "quantized", found["results"]["rows"]


def test_the_commands_take_them_and_their_options_by_name(found: dict[str, Any]) -> None:
    for command in ("prune", "replace", "mask", "quantize", "measure"):
        assert found[command][0] == 0, found[command][2]
    for command, said in (
        ("slip", "did you mean 'last_is_best'?"),
        ("option", "every"),
        ("share", "every_other keeps what it keeps"),
    ):
        code, _, error = found[command]
        assert code == 2 and said in error and len(error.splitlines()) == 1, error


def test_a_file_is_loaded_only_where_every_method_it_names_is_allowed(found: dict[str, Any]) -> None:
    *refused, loaded = found["loads"]
    for name, said in zip(STEPS, refused, strict=True):
        assert repr(name) in said and f"--allow {name}" in said and "\n" not in said
    assert loaded == ["cut", "mask", "quantize", "replace"]
    assert found["small"] == ["cut"]  # what ranked and shared out needs no leave
    assert found["refused"][0] == 2 and "--allow scaled" in found["refused"][2]
