"""The build file, `packer.yaml`: what a build is made of, for people to write and to review.

Every key has a flag of the same name on `packer build`.
"""

from __future__ import annotations

import difflib
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from containers.modelpack import ModelPack
from formats.text import parse_yaml
from registry.descriptor import Platform
from registry.errors import UsageError

MAX_SIZE = 1 << 20
"""Bytes of a build file."""

_MESSAGES = {"tuple_type": "this must be a list, such as [a, b]", "missing": "this key is needed"}

_UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 1 << 10,
    "MI": 1 << 20,
    "GI": 1 << 30,
    "TI": 1 << 40,
}


def parse_size(text: str) -> int:
    """The bytes that `4GiB` (4 x 2**30), `5GB` (5 x 10**9) or `1048576` mean; `UsageError` for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]?I?)B?", str(text).upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if not size:
        raise UsageError(
            "this is no size", expected="a number of bytes, or such as 4GiB or 500MB", found=str(text)[:100]
        )
    return size


class Pickles(StrEnum):
    """What is done about pickles: they are refused, or their tensors become safetensors first."""

    REJECT = "reject"
    CONVERT = "convert"


class RemoteCode(StrEnum):
    """What is done about code that comes with a model: it is refused, or told and let through."""

    REJECT = "reject"
    ALLOW = "allow"


Size = Annotated[int, BeforeValidator(parse_size)]
PlatformName = Annotated[Platform, BeforeValidator(lambda value: Platform.parse(str(value)))]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Publish(_Strict):
    """Where to, and in which form."""

    to: str = ""
    modelpack: ModelPack = ModelPack.SHARED
    base: str = "busybox"
    platforms: tuple[PlatformName, ...] = ()
    busybox: dict[PlatformName, Path] = Field(default_factory=dict)
    plain_http: bool = False


class Validate(_Strict):
    """What a model may be."""

    pickle: Pickles = Pickles.REJECT
    remote_code: RemoteCode = RemoteCode.REJECT


class Shard(_Strict):
    """How large a weight file may be, in bytes; None leaves them as they are."""

    max_size: Size | None = None


class BuildFile(_Strict):
    """A whole build."""

    source: str
    include: tuple[str, ...] = ()
    validation: Validate = Field(default=Validate(), alias="validate")
    shard: Shard = Shard()
    publish: Publish = Publish()


def read_build_file(path: Path) -> BuildFile:
    """The build that the file describes, relative paths taken from its folder; `UsageError` if it is malformed."""
    try:
        if path.stat().st_size > MAX_SIZE:
            raise UsageError(
                "this is too large for a build file", subject=str(path), expected=f"at most {MAX_SIZE} bytes"
            )
        document = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise UsageError(
                "a build file is a map of keys", subject=str(path), expected="source: and publish: at least"
            )
    except ValueError as error:
        raise UsageError(f"this is not YAML: {error}", subject=str(path)) from error
    try:
        return _relative_to(path.parent, BuildFile.model_validate(document))
    except ValidationError as error:
        raise _explain(path, error) from error


def _relative_to(folder: Path, build: BuildFile) -> BuildFile:
    publish = build.publish.model_copy(
        update={
            "to": _rebase_layout(folder, build.publish.to),
            "base": _rebase_layout(folder, build.publish.base),
            "busybox": {platform: folder / file for platform, file in build.publish.busybox.items()},
        }
    )
    source = build.source if "://" in build.source else str(folder / build.source)
    return build.model_copy(update={"source": source, "publish": publish})


def _rebase_layout(folder: Path, reference: str) -> str:
    is_layout = reference.startswith("oci:") and not reference.startswith("oci://")
    return f"oci:{folder / reference.removeprefix('oci:')}" if is_layout else reference


def _explain(path: Path, error: ValidationError) -> UsageError:
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        found = first.get("input")
        message = _MESSAGES.get(first["type"], first["msg"])
        return UsageError(f"{place}: {message}", subject=str(path), found=repr(found)[:100])
    section = SECTIONS.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
    known = known_keys(section or BuildFile)
    key = str(first["loc"][-1])
    home = next((name for name, model in SECTIONS.items() if key in model.model_fields), "")
    if home and not section:
        hint = f"put it under {home}: {key}: ..."
        return UsageError(f"the key {key!r} is not known here", subject=str(path), hint=hint)
    nearest = difflib.get_close_matches(key, known, 1, 0.4)
    return UsageError(
        f"the key {place!r} is not known",
        subject=str(path),
        expected=", ".join(known),
        hint=f"did you mean {nearest[0]!r}?" if nearest else "remove it",
    )


SECTIONS: dict[str, type[BaseModel]] = {"validate": Validate, "shard": Shard, "publish": Publish}
"""The keys whose values are maps, and what these hold."""


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a section as they are written in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def override(build: BuildFile, values: dict[str, Any]) -> BuildFile:
    """The build with the values that flags gave, by key, in place of its own; no key is in two sections."""
    merged: dict[str, Any] = {key: value for key, value in values.items() if key in BuildFile.model_fields}
    for name in ("validation", "shard", "publish"):
        section: BaseModel = getattr(build, name)
        keys = type(section).model_fields.keys() & values.keys()
        merged[name] = section.model_copy(update={key: values[key] for key in keys})
    return build.model_copy(update=merged)
