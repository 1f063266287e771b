"""Recipes and suites as they are written: maps in YAML, read with a bound, found by name, and explained where wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from formats.text import parse_yaml, printable
from registry.errors import UsageError

MAX_SIZE = 1 << 20
"""Bytes of a recipe or a suite."""

M = TypeVar("M", bound=BaseModel)


def is_path(text: str) -> bool:
    """Whether a text names a file, and not what ships with packer."""
    return text.endswith((".yaml", ".yml")) or "/" in text


def no_such(what: str, text: str, names: Iterable[str], otherwise: str) -> UsageError:
    """What is said of a name that nothing has: the nearest one, or `otherwise`."""
    known = list(names)
    near = difflib.get_close_matches(text, known, 1, 0.4)
    return UsageError(
        f"there is no {what} of this name",
        expected=", ".join(known),
        found=printable(text),
        hint=f"did you mean {near[0]!r}?" if near else otherwise,
    )


def read_bounded(path: Path, what: str) -> bytes:
    """The bytes of a file; `UsageError` if there is none, or too large a one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"there is no such {what}", subject=str(path), hint=f"packer {what}s lists ours") from error
    if len(data) > MAX_SIZE:
        raise UsageError(f"this is too large for a {what}", subject=str(path), expected=f"at most {MAX_SIZE} bytes")
    return data


def parse_map(data: bytes, what: str, model: type[BaseModel], origin: str) -> Mapping[Any, Any]:
    """The map in a document; `UsageError` if it is none."""
    try:
        document = parse_yaml(data.decode())
    except ValueError as error:
        raise _no_yaml(error, origin) from error
    if not isinstance(document, dict):
        raise UsageError(f"a {what} is a map of keys", subject=origin, expected=", ".join(model.model_fields))
    return document


def validated(document: Mapping[Any, Any], what: str, model: type[M], origin: str) -> M:
    """The document as a model; `UsageError` for a key that is not known, or a value that is wrong."""
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        raise _explained(error, what, model, origin) from error
    except ValueError as error:
        raise _no_yaml(error, origin) from error


def _no_yaml(error: ValueError, origin: str) -> UsageError:
    why = printable(" ".join(str(error).split()))[:200]
    return UsageError(f"this is not YAML: {why}", subject=origin)


def _explained(error: ValidationError, what: str, model: type[BaseModel], origin: str) -> UsageError:
    """What is wrong first: a key that is not known, since another may be missing for it."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = printable(".".join(str(part) for part in first["loc"]))
    fields = _model_at(model, first["loc"][:-1]).model_fields
    known = ", ".join(fields)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), fields, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return UsageError(f"the key {place!r} is not known", subject=origin, expected=known, hint=hint)
    found = printable(repr(first.get("input")))[:100]
    return UsageError(f"this is no {what}: {place}: {first['msg']}", subject=origin, expected=known, found=found)


def _model_at(model: type[BaseModel], path: Iterable[int | str]) -> type[BaseModel]:
    """The model of what is at a path in a document, as far as one is known."""
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        model = next(_models(field.annotation), model) if field else model
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, such as `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
