"""The build file, `packer.yaml`: what a build is made of, for people to write and to review.

Every key has a flag of the same name on `packer build`.
"""

from __future__ import annotations

import difflib
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


class BuildFile(_Strict):
    """A whole build."""

    source: str
    include: tuple[str, ...] = ()
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
    known = _known_keys(BuildFile if len(first["loc"]) == 1 else Publish)
    key = str(first["loc"][-1])
    if len(first["loc"]) == 1 and key in Publish.model_fields:
        return UsageError(
            f"the key {key!r} is not known here", subject=str(path), hint=f"put it under publish: {key}: ..."
        )
    nearest = difflib.get_close_matches(key, known, 1, 0.4)
    return UsageError(
        f"the key {place!r} is not known",
        subject=str(path),
        expected=", ".join(known),
        hint=f"did you mean {nearest[0]!r}?" if nearest else "remove it",
    )


def _known_keys(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


def override(build: BuildFile, source: dict[str, Any], publish: dict[str, Any]) -> BuildFile:
    """The build with the values that flags gave in place of its own."""
    merged = build.publish.model_copy(update=publish)
    return build.model_copy(update={**source, "publish": merged})
