"""The pages as a site: each is reached, each block of code in it runs, is checked, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from documents import ROOT, blocks, run, text_of

import flowprune
from flowprune.studies.comparison.comparison_recipe import ComparisonRecipe
from flowprune.studies.recipe import Recipe

PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md")))]

RUN_BY = {
    "README.md": "tests/test_readme.py",
    "docs/add-a-method.md": "tests/commands/test_newcomers.py",
    "docs/branches.md": "tests/engine/branches/test_branches_document.py",
    "docs/budgets.md": "tests/test_budgets_document.py",
    "docs/compress.md": "tests/test_compress_document.py",
    "docs/deploy.md": "tests/test_readme.py",
    "docs/flow.md": "tests/methods/regularizers/feature_flow/test_flow_document.py",
    "docs/integrations.md": "tests/integrations/test_integrations_document.py",
    "docs/pictures.md": "tests/training/test_own_pictures.py",
    "docs/steps.md": "tests/engine/steps/test_steps_document.py",
    "docs/training.md": "tests/test_training_document.py",
    "docs/users-shapes.md": "tests/engine/surgery/test_users_shapes.py",
}
"""Page -> the test that runs its examples and looks at what they leave; those of all others are run here."""

COMMANDS = (
    "flowprune ",
    "accelerate ",
    "make ",
    "pip ",
    "python ",
    "python3 ",
    "source ",
    ".venv/bin/",
    "FLOWPRUNE_DATA=",
)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = [
        page for part in yaml.safe_load(text_of("mkdocs.yml"))["nav"] for pages in part.values() for page in pages
    ]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_site_can_be_read_from_the_disk_and_fetches_nothing() -> None:
    settings = text_of("mkdocs.yml")
    (worker,) = yaml.safe_load(settings)["extra"]["polyfills"]
    assert "iframe-worker" in worker and (ROOT / "docs" / worker).is_file()  # else the plugin takes one from elsewhere
    assert "  - offline " in settings and "font: false" in settings


def test_the_reference_has_every_public_name() -> None:
    shown = {line.rpartition(".")[2] for line in text_of("docs/reference.md").splitlines() if line.startswith("::: ")}
    assert shown == set(flowprune.__all__) - {"errors", "importance", "models"}  # modules, which the page names


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_every_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in RUN_BY:
        assert Path(page).name in text_of(RUN_BY[page])
        return
    monkeypatch.chdir(tmp_path)
    run(blocks(page, "python"), page)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")])
def test_every_recipe_is_one(page: str) -> None:
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(block)
        if page.startswith("docs/methods/"):
            assert all(
                "phase" in phase for phase in content
            )  # a preset's, with its holes: tests/studies/test_presets.py
        elif isinstance(content.get("methods", [""])[0], str) and "seeds" not in content:
            Recipe.model_validate({"data": {"name": "digits"}, "network": "resnet8", **content})
        else:
            ComparisonRecipe.model_validate(content)


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_block_of_commands_is_a_command(page: str) -> None:
    for line in "".join(blocks(page, "sh") + blocks(page, "")).splitlines():
        if line and not line.startswith("#"):
            assert line.startswith(COMMANDS), line
        for word in line.split():
            if word.startswith(("examples/", "benchmarks/", "recipes/")):
                assert (ROOT / word).exists(), line
