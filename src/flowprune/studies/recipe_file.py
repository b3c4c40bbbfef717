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

from flowprune.errors import RecipeError, UnknownNameError, one_line

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
    content = read_content(path, embedded=embedded)
    override(content, overrides)
    return checked_sections(schema, content, where_of(path), short_keys)


def where_of(path: str | Path | None) -> str:
    """What a file is called in messages."""
    return "the embedded recipe" if path is None else str(path)


def read_content(path: str | Path | None, *, embedded: str = "digits.yaml") -> dict[str, Any]:
    """The sections of a YAML file as they stand there, or of the package's own ``recipes/EMBEDDED``.

    Raises:
        RecipeError: the file is missing, no YAML or no sections.
    """
    where = where_of(path)
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
        raise RecipeError(f"{where} is no valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{where} is no recipe: expected sections (network, data, training, ...)")
    return content


def override(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set values in place, "section.key=value" each; sections on the way that are missing or null are made.

    Raises:
        RecipeError: one is not of that form, or there is no such place.
    """
    for one in overrides:
        _override(content, one)


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
        raise RecipeError(f"--set {override!r}: the value is no valid YAML: {one_line(error)}") from error
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
    path, known = _place(schema, first["loc"], short_keys)
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        kind = f"key in {'.'.join(map(str, path[:-1]))}:" if len(path) > 1 else "key"
        return str(UnknownNameError(kind, str(path[-1]), known))
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag, expected = first["ctx"]["discriminator"], first["ctx"].get("expected_tags")
        wrong = f"{first['ctx']['tag']!r} is none of {expected}" if expected else "is missing; it says what is done"
        return f"{key}.{tag.strip(chr(39))}: {wrong}"
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _place(
    schema: type[BaseModel], location: Sequence[str | int], short_keys: Sequence[str]
) -> tuple[list[str | int], list[str]]:
    """Pydantic's location as the keys of the file, and the keys that are known where its last one stands."""
    path: list[str | int] = []
    here: Any = schema
    known = [*schema.model_fields, *short_keys]
    for part in location:
        sections = _sections_in(here)
        tagged = [section for section in sections if len(sections) > 1 and _tag(section) == part]
        if tagged:
            here = tagged[0]
        elif not _is_branch(part):
            path.append(part)
            known = [name for section in sections for name in section.model_fields]
            known += short_keys if sections == [schema] else []
            if isinstance(part, str):
                here = _below(here, sections, part)
    return path, known


def _is_branch(part: object) -> bool:
    """Whether a part of pydantic's location names an alternative of a union instead of a key of the file."""
    return isinstance(part, str) and ("[" in part or part in ("float", "str", "int"))


def _below(annotation: Any, sections: Sequence[type[BaseModel]], key: str) -> Any:
    """What may stand under a key."""
    for alternative in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(alternative) is dict:
            return typing.get_args(alternative)[1]
    return next((section.model_fields[key].annotation for section in sections if key in section.model_fields), None)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The section types within ``X``, ``X | None``, ``list[X]`` or ``X | Y``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [section for part in typing.get_args(annotation) for section in _sections_in(part)]


def _tag(section: type[BaseModel]) -> object:
    """The one value of a key that tells a section from its alternatives."""
    annotations = [field.annotation for field in section.model_fields.values()]
    literal = [typing.get_args(one) for one in annotations if typing.get_origin(one) is typing.Literal]
    return next((values[0] for values in literal if len(values) == 1), None)
