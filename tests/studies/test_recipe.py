from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from flowprune import models
from flowprune.errors import RecipeError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.studies.recipe import Recipe, dump_recipe, load_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RUNS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith(("compare-", "own-")))

SMALL = """
network: resnet20
data: {name: cifar10, subset: 100}
training: {epochs: 3, lr: 0.1}
flow: {gradient: 5%, curvature: 1e-2}
pruning:
  budgets: [{macs: 0.5, scope: local}, {threshold: 0.01}]
  importance: {name: nuclear_norm, options: {reading: mean}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_what_its_name_says(path: Path) -> None:
    recipe = load_recipe(path)
    network, data, method, *short = path.stem.split("-")
    assert recipe.name == path.stem
    assert [one.name for one in recipe.networks] == [network] and network in models.names()
    assert recipe.data.name == data
    assert recipe.methods == [method] and (recipe.flow is not None) == (method == "ffr")
    assert recipe.training.epochs == (10 if short else 200)
    assert (recipe.training.lr, recipe.training.momentum, recipe.training.nesterov) == (0.1, 0.9, True)
    assert (recipe.training.batch_size, recipe.training.weight_decay) == (128, 5e-4)
    assert recipe.finetuning is not None and recipe.finetuning.lr == 0.01
    assert recipe.finetuning.epochs == (3 if short else 40)
    assert recipe.data.subset == (10_000 if short else None)


def test_all_published_settings_have_a_recipe() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    for network in ("resnet20", "resnet56", "resnet110", "vgg16"):
        for data in ("cifar10", "cifar100"):
            assert {f"{network}-{data}-ffr", f"{network}-{data}-plain"} <= names
    assert {"resnet20-cifar10-ffr-short", "resnet20-cifar10-plain-short"} <= names


def test_twins_differ_in_the_method_alone() -> None:
    for path in FOLDER.glob("*-ffr*.yaml"):
        twin = path.with_name(path.name.replace("-ffr", "-plain"))
        ffr, plain = (load_recipe(one).model_dump(exclude={"name", "flow", "methods"}) for one in (path, twin))
        assert ffr == plain


def test_embedded_demonstration_trains_both_methods_under_the_same_settings() -> None:
    recipe = load_recipe(None)
    assert recipe.methods == ["plain", "ffr"] and recipe.data.name == "digits"
    assert len(recipe.networks) == 2 and recipe.pruning is not None
    assert [str(budget) for budget in recipe.pruning.budgets] == ["macs=0.5", "threshold=0.01"]
    for network in recipe.networks:
        models.create(network.name, classes=10, **network.options)
    assert (resources.files("flowprune.studies") / "recipes" / "digits.yaml").is_file()


def test_values_arrive_with_their_types(small: Path) -> None:
    recipe = load_recipe(small)
    assert recipe.networks[0].name == "resnet20" and recipe.methods == ["ffr"]
    assert recipe.flow is not None and recipe.pruning is not None
    assert recipe.flow.options(3)["gradient"] == "5%" and recipe.flow.options(3)["curvature"] == 0.01
    assert recipe.pruning.budgets[0].options() == {"macs": 0.5, "scope": "local"}
    assert recipe.pruning.budgets[1].options() == {"threshold": 0.01}
    assert recipe.pruning.importance.options == {"reading": "mean"}


def test_a_schedule_or_target_of_the_flow_goes_over_the_epochs_of_the_training(small: Path) -> None:
    constant, linear, target = (
        load_recipe(small, [override]).flow
        for override in ("flow.norm=1", "flow.schedule=linear", "flow.target_dead=0.3")
    )
    assert constant is not None and linear is not None and target is not None
    assert constant.options(3)["epochs"] is None
    assert (linear.options(3)["schedule"], linear.options(3)["epochs"]) == ("linear", 3)
    assert (target.options(3)["target_dead"], target.options(3)["epochs"]) == (0.3, 3)
    with pytest.raises(RecipeError, match="needs at least 1 in training"):
        load_recipe(small, ["flow.schedule=linear", "training.epochs=0"])


def test_every_unit_and_form_of_the_flow_can_be_written_in_a_recipe(small: Path) -> None:
    for override in ("flow.norm=path", "flow.norm=group", "flow.size=relative", "flow.gradient=0.5 pull"):
        section = load_recipe(small, ["flow.curvature=null", override]).flow
        assert section is not None
        FeatureFlow(models.create("resnet20"), **section.options(3)).close()
    with pytest.raises(RecipeError, match="gradient"):
        load_recipe(small, ["flow.gradient=half a pull"])


def test_overrides_are_yaml_values_at_any_depth(small: Path) -> None:
    recipe = load_recipe(
        small,
        [
            "training.epochs=7",
            "training.augmentation.crop=2",
            "training.augmentation.flip=false",
            "pruning.budgets.0.macs=0.25",
            "finetuning.epochs=1",
            "methods=[plain, ffr]",
            "flow.gradient=20%",
        ],
    )
    assert recipe.training.epochs == 7 and recipe.training.lr == 0.1
    assert recipe.training.augmentation is not None
    assert (recipe.training.augmentation.crop, recipe.training.augmentation.flip) == (2, False)
    assert recipe.pruning is not None and recipe.pruning.budgets[0].macs == 0.25
    assert recipe.finetuning is not None and recipe.finetuning.epochs == 1
    assert recipe.methods == ["plain", "ffr"]
    assert recipe.flow is not None and recipe.flow.gradient == "20%"
    assert load_recipe(None, ["networks.1.options.width=8"]).networks[1].options["width"] == 8


def test_network_by_name_is_overridden_by_name(small: Path) -> None:
    assert load_recipe(small, ["network=resnet56"]).networks[0].name == "resnet56"


def test_the_recipe_as_run_loads_as_the_same_recipe(small: Path, tmp_path: Path) -> None:
    for source in (small, None, *RUNS):
        recipe = load_recipe(source)
        dump_recipe(recipe, tmp_path / "as-run.yaml")
        assert load_recipe(tmp_path / "as-run.yaml") == recipe


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epocs=3", ["'epocs'", "training", "did you mean 'epochs'"]),
        ("trainning.epochs=3", ["'trainning'", "did you mean 'training'"]),
        ("pruning.importance.nmae=l1", ["'nmae'", "did you mean 'name'"]),
        ("pruning.budgets.0.mac=0.5", ["'mac'", "did you mean 'macs'"]),
        ("training.augmentation.flipp=true", ["'flipp'", "did you mean 'flip'"]),
        ("training.epochs=many", ["training.epochs", "integer", "'many'"]),
        ("training.lr=-1", ["training.lr", "greater than 0", "-1"]),
        ("training=5", ["training", "got 5"]),
        ("flow.reduction=max", ["flow.reduction", "'mean'", "'max'"]),
        ("flow.gradient=strong", ["flow.gradient", "strong"]),
        ("flow.schedule=linaer", ["flow.schedule", "'warm-up'", "'linaer'"]),
        ("flow.target_dead=1", ["flow.target_dead", "less than 1"]),
        ("flow.target_dead=0", ["flow.target_dead", "greater than 0"]),
        ("flow.target_macs=50", ["flow.target_macs", "less than 1", "50"]),
        ("flow={target_dead: 0.3, target_macs: 0.5}", ["flow", "target_dead or target_macs, not both"]),
        ("flow={target_macs: 0.5, schedule: linear}", ["flow", "target_macs sets the strength by itself"]),
        ("methods=[ffr, sparse]", ["methods.1", "'sparse'"]),
        ("pruning.budgets.1.macs=0.5", ["exactly one of macs"]),
        ("pruning.budgets.5.macs=0.5", ["'5' is no position in a list of 2"]),
        ("pruning.budgets=[]", ["pruning.budgets", "at least 1"]),
        ("networks=[resnet20]", ["network or networks, not both"]),
        ("data.name.deeper=1", ["nothing below 'cifar10'"]),
        ("training.epochs", ["expected section.key=value"]),
        ("training.epochs=[1", ["no valid YAML"]),
        ("data=null", ["data"]),
    ],
)
def test_wrong_recipes_are_one_line_that_names_file_and_key(small: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(small, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert str(small) in message or message.startswith("--set")
    for part in parts:
        assert part in message


def test_without_a_flow_section_the_method_is_plain(small: Path) -> None:
    assert load_recipe(small, ["flow=null"]).methods == ["plain"]
    with pytest.raises(RecipeError, match="the method ffr needs a flow section"):
        load_recipe(small, ["flow=null", "methods=[ffr]"])


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*absent.yaml: No such file"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path)
    for content, message in (("a: [1", "no valid YAML"), ("just text", "is no recipe"), ("", "is no recipe")):
        (tmp_path / "wrong.yaml").write_text(content)
        with pytest.raises(RecipeError, match=message) as caught:
            load_recipe(tmp_path / "wrong.yaml")
        assert "\n" not in str(caught.value)
    (tmp_path / "wrong.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "wrong.yaml")


def test_a_recipe_cannot_be_changed_after_it_was_checked(small: Path) -> None:
    recipe: Recipe = load_recipe(small)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]
