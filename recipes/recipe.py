"""Quantization recipes: what to do with a model, as data.

A recipe is a YAML file. Those under `recipes/quantization/` are known by their names; a user's own is named by its path
and is in no way different.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from formats.text import printable
from recipes.described import is_path, no_such, parse_map, read_bounded, validated
from registry.descriptor import Digest, digest_of
from registry.errors import UsageError

SHIPPED = Path(__file__).parent / "quantization"

_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which UTF-8 cannot hold."""


class Engine(StrEnum):
    """The library that does it."""

    LLMCOMPRESSOR = "llmcompressor"
    ONNXRUNTIME = "onnxruntime"
    LLAMA = "llama.cpp"


FORMATS = {Engine.LLMCOMPRESSOR: "safetensors", Engine.ONNXRUNTIME: "onnx", Engine.LLAMA: "gguf"}
"""The format that each engine reads and writes."""


class _Document(BaseModel):
    """A recipe as it is written. `modifiers` are llmcompressor's, by name; `options` those of the other engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    engine: Engine
    calibration: bool
    hardware: tuple[str, ...] = ()
    modifiers: dict[str, dict[str, Any]] | None = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized.

    `hardware` runs the result natively, all other hardware slower or not at all. `settings` is what the engine is
    given, word for word; `digest` is that of the file's bytes.
    """

    name: str
    description: str
    engine: Engine
    calibration: bool
    hardware: tuple[str, ...]
    settings: Mapping[str, Any]
    digest: Digest

    @property
    def format(self) -> str:
        """The format of the weights that it is for."""
        return FORMATS[self.engine]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**vars(self), "engine": self.engine.value, "format": self.format, "hardware": list(self.hardware)}


@cache
def shipped() -> tuple[Recipe, ...]:
    """The recipes that come with packer, by name."""
    return tuple(read_recipe(path) for path in sorted(SHIPPED.glob("*.yaml")))


def find_recipe(text: str) -> Recipe:
    """The recipe of that name, or in that file; `UsageError` if there is none."""
    if is_path(text):
        return read_recipe(Path(text))
    known = {recipe.name: recipe for recipe in shipped()}
    if text in known:
        return known[text]
    raise no_such("recipe", text, known, "name one of them, or a file of your own (.yaml)")


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; `UsageError` if it is none."""
    data = read_bounded(path, "recipe")
    document = parse_map(data, "recipe", _Document, str(path))
    said = validated(document, "recipe", _Document, str(path))
    wanted, other = ("modifiers", "options") if said.engine is Engine.LLMCOMPRESSOR else ("options", "modifiers")
    settings = getattr(said, wanted)
    if not settings or getattr(said, other):
        found = other if getattr(said, other) else f"no {wanted}"
        raise UsageError(f"a recipe for {said.engine.value} has {wanted}", subject=str(path), found=found)
    _require_json(path, wanted, settings)
    facts = (said.name, said.description, said.engine, said.calibration, said.hardware)
    return Recipe(*facts, settings, digest_of(data))


def _require_json(path: Path, key: str, value: object) -> None:
    """`UsageError` if JSON, in which a child gets the settings, cannot hold a value, or it is a pattern that is none.

    `key` leads to it.
    """
    if isinstance(value, dict) and all(isinstance(name, str) and _is_scalar(name) for name in value):
        for name, inner in value.items():
            _require_json(path, f"{key}.{name}", inner)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _require_json(path, f"{key}[{at}]", inner)
    elif isinstance(value, str) and value.startswith("re:"):
        _require_pattern(path, key, value[3:])
    elif not _is_scalar(value):
        raise UsageError(
            f"this is no value of a setting: {printable(key)}",
            subject=str(path),
            expected="text, a number, true, false, null, a list, or a map whose keys are text",
            found=f"{type(value).__name__} {_shown(value)}",
            hint="put a text in quotes",
        )


def _require_pattern(path: Path, key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        what = f"this is no regular expression ({error}): {printable(key)}"
        raise UsageError(what, subject=str(path), found=printable(pattern)[:100]) from error


def _shown(value: object) -> str:
    try:
        return printable(repr(value))[:100]
    except ValueError:
        return "of too many digits"


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return not _HALF.search(value)
    if isinstance(value, int | float):
        return abs(value) < 2**63  # which NaN is not
    return value is None
