"""A YAML file and `--set a.b=c` overrides -> a frozen pydantic model, one for each command.

A configuration is one flat file without inheritance, interpolation or import strings. A name that does not exist is
refused, and the message gives the nearest name that does.
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from uadray.errors import InputError


class Config(BaseModel):
    """The base of all configurations: they are frozen, and refuse names that they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(model: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a file of YAML, apply overrides of the form `a.b=c` in order, and validate the result.

    Raises:
        InputError: the file is missing or no YAML mapping, or a field is unknown, missing or has a wrong value; the
            message names the file, the field and, for a misspelt name, the nearest valid one.
    """
    values = read_mapping(path)
    for override in overrides:
        apply_override(values, override)
    return parse_config(model, values, source=f"configuration {path}")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The fields of a YAML file, not yet validated.

    Raises:
        InputError: the file is missing, or no YAML mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"configuration {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"configuration {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"configuration {path}: expected a mapping of fields, found {type(values).__name__}")
    return values


def parse_config(model: type[ConfigT], values: Any, *, source: str) -> ConfigT:
    """Validate values that have been read already; error messages begin with `source`.

    Raises:
        InputError: a field is unknown, missing or has a wrong value, see `load_config`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(model, values, problem) for problem in error.errors())
        raise InputError(f"{source}: {problems}") from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one field, like `detector.width=32`; the value is read as YAML.

    Raises:
        InputError: it is not of the form `a.b=c`, or `a` has no fields.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: expected name=value, for example --set detector.width=32")
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {parent} is a value, it has no fields")
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: not valid YAML: {' '.join(str(error).split())}") from error


def has_field(model: type[BaseModel], values: dict[str, Any], name: str) -> bool:
    """Whether what `values` configures has a field, like `detector.width`; of a union, with the `kind` in `values`."""
    *path, last = name.split(".")
    return last in _fields_at(model, path, frozenset(_kinds(values)))


def _kinds(values: Any) -> Iterator[str]:
    """All that stands as `kind`, at any depth."""
    if isinstance(values, dict):
        yield from (str(value) for key, value in values.items() if key == "kind")
        for value in values.values():
            yield from _kinds(value)
    elif isinstance(values, list):
        for value in values:
            yield from _kinds(value)


def _explain(model: type[BaseModel], values: Any, problem: Any) -> str:
    """One problem of a ValidationError, in words."""
    # pydantic puts the tag of a discriminated union into the location, though the file has no such field
    names = [str(name) for name in _without_tags(values, problem["loc"])]
    field = ".".join(names) or "the whole"
    if problem["type"] != "extra_forbidden":
        return f"{field}: {problem['msg']} (got {problem['input']!r})"[:400]
    path = [name for name in names[:-1] if not name.isdecimal()]
    known = sorted(set(_fields_at(model, path, frozenset(map(str, problem["loc"])))))
    near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"{field}: no such field; {hint}"


def _without_tags(values: Any, location: Sequence[str | int]) -> Iterator[str | int]:
    """The names of a location that the file has: those of fields and positions, without tags of unions."""
    node = values
    for position, name in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(node, dict) and name not in node and (not is_last or name == node.get("kind")):
            continue
        yield name
        node = _within(node, name)


def _within(node: Any, name: str | int) -> Any:
    """What stands in a mapping or a list at a name or a position; None where nothing does."""
    if isinstance(node, dict):
        return node.get(name)
    return node[name] if isinstance(node, list) and isinstance(name, int) and name < len(node) else None


def _fields_at(model: type[BaseModel], path: Sequence[str], tags: frozenset[str]) -> Iterator[str]:
    """The fields of the model that `path` leads to; of a union, of those models whose `kind` is among `tags`."""
    if not path:
        yield from model.model_fields
        return
    field = model.model_fields.get(path[0])
    for child in _models_in(field.annotation) if field else ():
        kind = child.model_fields.get("kind")
        if kind is None or tags.intersection(get_args(kind.annotation)):
            yield from _fields_at(child, path[1:], tags)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models that occur in a type, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
