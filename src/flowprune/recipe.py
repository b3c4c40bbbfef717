"""A recipe: everything a run does, as one typed, validated YAML file."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flowprune.errors import RecipeError, UnknownNameError
from flowprune.training.settings import TrainingSettings

Method = Literal["plain", "ffr"]


def _strength(value: object) -> object:
    """YAML reads 5e-2 as text; a text that is a number is meant as one."""
    if isinstance(value, str) and not value.strip().endswith("%"):
        return float(value)
    if isinstance(value, str):
        float(value.strip().removesuffix("%"))
    return value


Strength = Annotated[float | str, BeforeValidator(_strength)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class NetworkSection(_Section):
    """A network: what ``flowprune.models.create`` takes. ``classes: null`` means as many as the data has."""

    name: str
    classes: int | None = Field(default=None, ge=1)
    weights: str | None = None
    options: dict[str, Any] = {}


class DataSection(_Section):
    """The images: what ``flowprune.training.load_data`` takes. ``normalize: null`` means the data set's usual one."""

    name: str
    normalize: str | tuple[tuple[float, ...], tuple[float, ...]] | None = None
    subset: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    workers: int = Field(default=0, ge=0)


class FlowSection(_Section):
    """Feature flow regularization: what ``flowprune.flow.FeatureFlow`` takes."""

    gradient: Strength | None = "5%"
    curvature: Strength | None = "5%"
    points: Literal["blocks", "layers"] | list[str] = "blocks"
    norm: Literal[1, 2] = 1
    across: Literal["project", "skip"] | None = None
    reduction: Literal["mean", "channel", "sum"] = "mean"
    curvature_form: Literal["second-difference", "angle"] = "second-difference"

    def options(self) -> dict[str, Any]:
        """Keyword arguments for ``FeatureFlow``."""
        return self.model_dump()


class ImportanceSection(_Section):
    """A criterion by its registered name, and its options."""

    name: str = "l2"
    options: dict[str, Any] = {}


class BudgetSection(_Section):
    """What is kept: exactly one of these, as ``flowprune.plan`` takes it."""

    macs: float | str | None = None
    params: float | str | None = None
    channels: float | None = None
    threshold: float | None = None
    scope: Literal["global", "local"] = "global"

    @model_validator(mode="after")
    def _one(self) -> BudgetSection:
        given = [key for key in ("macs", "params", "channels", "threshold") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a budget is exactly one of macs, params, channels, threshold")
        return self

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(key for key in ("macs", "params", "channels", "threshold") if getattr(self, key) is not None)

    def options(self) -> dict[str, Any]:
        """Keyword arguments for ``plan``: the budget, and the scope where it has a meaning."""
        chosen = {self.kind: getattr(self, self.kind)}
        return {**chosen, "scope": self.scope} if self.kind in ("macs", "params") else chosen

    def __str__(self) -> str:
        return f"{self.kind}={getattr(self, self.kind)}"


class PruningSection(_Section):
    """How each trained network is cut: once to every budget, always from the same dense one.

    Attributes:
        budgets: the targets.
        importance: the criterion; ``threshold`` needs none and takes none.
        largest_cut: the largest share of a group's channels that may leave under a budget of MACs or parameters.
        fold_tolerance, ignore: see ``flowprune.plan``.
        batches, batch_size: how many training images data-driven criteria see.
    """

    budgets: list[BudgetSection] = Field(min_length=1)
    importance: ImportanceSection = ImportanceSection()
    largest_cut: float = Field(default=0.9, gt=0, le=1)
    fold_tolerance: float = Field(default=0.05, ge=0)
    ignore: list[str] = []
    batches: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)


class Recipe(_Section):
    """A whole run.

    In the file, ``network:`` may stand for a list of one, and a name alone for a network without options. Without
    ``methods``, a recipe with a ``flow`` section trains with it ("ffr") and one without trains plainly ("plain").
    Several methods are each trained from the same seed.

    Attributes:
        name: of the run, for people.
        networks: what is trained, one after the other.
        data: on what.
        training: how.
        flow: the penalty of the method "ffr".
        methods: "plain", "ffr" or both.
        pruning: what is cut afterwards; None trains only.
        finetuning: how what was cut is trained again; None leaves it out.
        threads: CPU threads for torch; None leaves torch's own choice. Small networks are fastest with 1.
    """

    name: str = "run"
    networks: list[NetworkSection] = Field(min_length=1)
    data: DataSection
    training: TrainingSettings = TrainingSettings()
    flow: FlowSection | None = None
    methods: list[Method] = Field(min_length=1)
    pruning: PruningSection | None = None
    finetuning: TrainingSettings | None = None
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        full = dict(content)
        if "network" in full:
            if "networks" in full:
                raise ValueError("give network or networks, not both")
            full["networks"] = [full.pop("network")]
        if isinstance(full.get("networks"), list):
            full["networks"] = [{"name": one} if isinstance(one, str) else one for one in full["networks"]]
        full.setdefault("methods", ["plain"] if full.get("flow") is None else ["ffr"])
        return full

    @model_validator(mode="after")
    def _coherent(self) -> Recipe:
        if "ffr" in self.methods and self.flow is None:
            raise ValueError("the method ffr needs a flow section")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is listed twice")
        labels = [network.name for network in self.networks]
        if len(set(labels)) != len(labels):
            raise ValueError("a network is listed twice")
        return self


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file; the embedded demonstration on digits if None.
        overrides: "section.key=value" each, the value in YAML; a number addresses a list ("networks.0.name=resnet20").

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown (the nearest is suggested) or a value does not
            fit.
    """
    where = "the embedded recipe" if path is None else str(path)
    try:
        if path is None:
            text = (resources.files("flowprune") / "recipes" / "digits.yaml").read_text(encoding="utf-8")
        else:
            text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {where}: {reason}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is no valid YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{where} is no recipe: expected sections (network, data, training, ...)")
    for override in overrides:
        _override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from error


def dump_recipe(recipe: Recipe, path: str | Path | None = None) -> str:
    """The recipe as run, every default written out, as YAML; also into the file ``path``. It loads as the same
    recipe.
    """
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _override(content: dict[str, Any], override: str) -> None:
    """Set one value in place; sections on the way that are missing or null are made."""
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set {override!r}: expected section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is no valid YAML: {_one_line(error)}") from error
    place: Any = content
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        position: Any = part
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                raise RecipeError(f"--set {override!r}: {part!r} is no position in a list of {len(place)}")
            position = int(part)
        elif not isinstance(place, dict):
            raise RecipeError(f"--set {override!r}: there is nothing below {place!r} to set")
        if following is None:
            place[position] = value
        else:
            if isinstance(place, dict) and place.get(position) is None:
                place[position] = {}
            place = place[position]


def _explain(error: ValidationError) -> str:
    """The first complaint, in one line, with the full key."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if not _is_branch(part)]
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        kind = f"key in {'.'.join(map(str, path[:-1]))}:" if len(path) > 1 else "key"
        return str(UnknownNameError(kind, str(path[-1]), _fields(path[:-1])))
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _is_branch(part: object) -> bool:
    """Whether a part of pydantic's location names an alternative of a union instead of a key of the file."""
    return isinstance(part, str) and ("[" in part or part in ("float", "str", "int"))


def _fields(path: Sequence[object]) -> list[str]:
    """The keys that are known at a place in a recipe."""
    section: Any = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        section = _section_in(section.model_fields[str(part)].annotation)
    known = list(section.model_fields)
    return [*known, "network"] if section is Recipe else known


def _section_in(annotation: Any) -> Any:
    """The section type within ``X``, ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation
    inner = [part for part in typing.get_args(annotation) if part is not type(None)]
    return _section_in(inner[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
