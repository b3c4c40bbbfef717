"""Reading a typed YAML file: what is wrong in it becomes one line that names the file, the key and the nearest known one."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from flowprune.errors import RecipeError, UnknownNameError

Sections = TypeVar("Sections", bound=BaseModel)


def read_sections(
    schema: type[Sections],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    embedded: str = "digits.yaml",
    short_keys: Sequence[str] = (),
) -> Sections:
    """Read a YAML file into ``schema``.

    Args:
        schema: what the file must hold.
        path: the file; the package's own ``recipes/EMBEDDED`` if None.
        overrides: "section.key=value" each, the value in YAML; a number addresses a list ("networks.0.name=resnet20").
        embedded: see ``path``.
        short_keys: keys that the file may have beside those of ``schema``.

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown (the nearest is suggested) or a value does not
            fit.
    """
    where = "the embedded recipe" if path is None else str(path)
    try:
        if path is None:
            text = (resources.files("flowprune.studies") / "recipes" / embedded).read_text(encoding="utf-8")
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
    return checked_sections(schema, content, where, short_keys)


def checked_sections(schema: type[Sections], content: Any, where: str, short_keys: Sequence[str] = ()) -> Sections:
    """``content`` as ``schema``.

    Raises:
        RecipeError: it does not fit; the first complaint, with its key.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error, schema, short_keys)}") from error


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


def _explain(error: ValidationError, schema: type[BaseModel], short_keys: Sequence[str]) -> str:
    """The first complaint, in one line, with the full key."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if not _is_branch(part)]
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        kind = f"key in {'.'.join(map(str, path[:-1]))}:" if len(path) > 1 else "key"
        return str(UnknownNameError(kind, str(path[-1]), _fields(schema, path[:-1], short_keys)))
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _is_branch(part: object) -> bool:
    """Whether a part of pydantic's location names an alternative of a union instead of a key of the file."""
    return isinstance(part, str) and ("[" in part or part in ("float", "str", "int"))


def _fields(schema: type[BaseModel], path: Sequence[object], short_keys: Sequence[str]) -> list[str]:
    """The keys that are known at a place in a file."""
    section: Any = schema
    for part in path:
        if isinstance(part, int):
            continue
        section = _section_in(section.model_fields[str(part)].annotation)
    known = list(section.model_fields)
    return [*known, *short_keys] if section is schema else known


def _section_in(annotation: Any) -> Any:
    """The section type within ``X``, ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation
    inner = [part for part in typing.get_args(annotation) if part is not type(None)]
    return _section_in(inner[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
