"""The build file, `packer.yaml`: what a build is made of, for people to write and to review.

Every key has a flag of the same name on `packer build`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from containers.modelpack import ModelPack
from formats.text import parse_yaml, printable
from recipes.evaluation.scorecard import Undecided
from registry.descriptor import Platform
from registry.errors import UsageError
from registry.reference import is_tag

MAX_SIZE = 1 << 20
"""Bytes of a build file."""

VARIANTS = "variants"
"""The key of what differs between several builds from one source."""

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


def _keyed(read: Callable[[Any], object]) -> BeforeValidator:
    """What reads a value, so that what is wrong with it is said of its key."""

    def keyed(value: object) -> object:
        try:
            return read(value)
        except UsageError as error:
            said = {key: getattr(error, key) for key in ("what", "expected", "hint")}
            raise PydanticCustomError(_OURS, "{what}", said) from error

    return BeforeValidator(keyed)


_OURS = "ours"
"""The type of what `_keyed` raises."""

M = TypeVar("M", bound=BaseModel)
Size = Annotated[int, _keyed(parse_size)]
PlatformName = Annotated[Platform, _keyed(lambda value: Platform.parse(str(value)))]


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


_SHORT = {"quantize": "recipe", "evaluate": "suite"}
"""The sections that may be a text, and which of their keys that is."""


def _short(key: str) -> Callable[[object], object]:
    """A text in place of a map means the map's first key."""
    return lambda value: {key: value} if isinstance(value, str) else value


class Calibration(_Strict):
    """The samples that a recipe sees: `data` is a file, a folder or a dataset of the Hub, or packer's own if None."""

    data: str | None = None
    samples: Annotated[int, Field(ge=1)] | None = None
    max_length: Annotated[int, Field(ge=8)] = 2048
    seed: int = 0


class Quantize(_Strict):
    """In how many bits, and how: `recipe` is a name or a file, `device` auto, cpu, cuda or cuda:N."""

    recipe: str | None = None
    calibration: Annotated[Calibration, BeforeValidator(_short("data"))] = Calibration()
    device: str = "auto"


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def parse_duration(text: object) -> float:
    """The seconds that `90`, `90s`, `20m` or `1.5h` mean; `UsageError` for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([smh]?)", str(text).strip().lower())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0
    if not seconds:
        raise UsageError("this is no time", expected="seconds, or such as 20m or 2h", found=printable(str(text))[:100])
    return seconds


Duration = Annotated[float, _keyed(parse_duration)]


def parse_share(text: object) -> float:
    """The share of 1 that `0.95` means; `UsageError` for anything else, such as 95 or 1.5."""
    said = str(text).strip()
    match = re.fullmatch(r"(\d{0,9}(?:\.\d{1,20})?) ?(%?)", said)
    share = float(match[1]) if match and match[1] else 0.0
    if match and not match[2] and 0 < share <= 1:
        return share
    meant = share / 100 if match and (match[2] or share >= 2) else 0.0
    hint = f"did you mean {meant:.6g}?" if 0 < meant <= 1 else "1 is all of the baseline, 0.95 is 95 % of it"
    expected = "a share of the baseline, above 0 and at most 1, such as 0.95"
    raise UsageError("this is nothing that can be retained", expected=expected, found=printable(said)[:100], hint=hint)


Share = Annotated[float, _keyed(parse_share)]


class Evaluate(_Strict):
    """On what the result is measured, and how much of its baseline it must retain.

    `suite` is a name, a file, or a suite itself; `baseline` a model, or if None what the result was made from; `retain`
    is a share of 1, the suite's own or 0.99 if None; `budget` is in seconds; `report` is a folder.
    """

    suite: str | dict[str, Any] | None = None
    retain: Share | None = None
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    budget: Duration = 1200.0
    undecided: Undecided = Undecided.REFUSE
    baseline: str | None = None
    data: str | None = None
    seed: int | None = None
    device: str = "auto"
    report: Path | None = None


class BuildFile(_Strict):
    """A whole build."""

    source: str
    include: tuple[str, ...] = ()
    validation: Validate = Field(default=Validate(), alias="validate")
    shard: Shard = Shard()
    quantize: Annotated[Quantize, BeforeValidator(_short(_SHORT["quantize"]))] = Quantize()
    evaluate: Annotated[Evaluate, BeforeValidator(_short(_SHORT["evaluate"]))] = Evaluate()
    publish: Publish = Publish()


def read_builds(path: Path) -> dict[str, BuildFile]:
    """The builds that a file describes, by the names of its variants: one without a name if it has none.

    Relative paths are taken from the file's folder. `UsageError` if it is malformed.
    """
    document = _read(path)
    variants = document.pop(VARIANTS, None)
    if variants is None:
        return {"": _build(path, document)}
    return {name: _build(path, merged) for name, merged in _variants(path, document, variants).items()}


def _build(path: Path, document: dict[str, Any]) -> BuildFile:
    try:
        return _relative_to(path.parent, BuildFile.model_validate(document))
    except ValidationError as error:
        raise _explain(path, error) from error


def _variants(path: Path, document: dict[str, Any], variants: object) -> dict[str, dict[str, Any]]:
    """The document with what each variant has of its own, by name. Maps are merged, all else is replaced."""
    if not isinstance(variants, list) or not variants or not all(isinstance(one, dict) for one in variants):
        expected = "a list of maps, such as [{name: fp8, quantize: fp8-dynamic}]"
        raise UsageError(f"{VARIANTS}: this is no list of variants", subject=str(path), expected=expected)
    found: dict[str, dict[str, Any]] = {}
    for variant in variants:
        own = dict(variant)
        name = own.pop("name", None)
        if not isinstance(name, str) or not is_tag(name) or name in found:
            what = (
                "this name is taken" if name in found else "a variant has a name of letters, digits, '_', '.' and '-'"
            )
            raise UsageError(f"{VARIANTS}: {what}", subject=str(path), found=printable(repr(name))[:100])
        found[name] = _at_its_tag(name, own, _merged(document, own))
    return found


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Both; where both have a map, both of its."""
    inner = {}
    for key in base.keys() & own.keys():
        maps = [_expanded(key, document[key]) for document in (base, own)]
        if _is_map(maps[0]) and _is_map(maps[1]):
            inner[key] = _merged(maps[0], maps[1])
    return {**base, **own, **inner}


def _expanded(key: str, value: object) -> object:
    """A section in its long form."""
    return _short(_SHORT[key])(value) if key in _SHORT else value


def _is_map(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _at_its_tag(name: str, own: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """A variant that does not say where it goes has its name as the tag, or behind the tag of the file."""
    publish, said = merged.get("publish"), own.get("publish")
    if not _is_map(publish) or not isinstance(publish.get("to"), str) or (_is_map(said) and "to" in said):
        return merged
    return {**merged, "publish": {**publish, "to": with_variant(publish["to"], name)}}


def with_variant(to: str, name: str) -> str:
    """The destination of a variant: `REPO:NAME` for `REPO`, `REPO:TAG-NAME` for `REPO:TAG`."""
    head, colon, tag = to.rpartition(":")
    has_tag = colon and "/" not in tag and head != "oci"
    return f"{to}-{name}" if has_tag else f"{to}:{name}"


def _read(path: Path) -> dict[str, Any]:
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
    return document


def _relative_to(folder: Path, build: BuildFile) -> BuildFile:
    publish = build.publish.model_copy(
        update={
            "to": _rebase_layout(folder, build.publish.to),
            "base": _rebase_layout(folder, build.publish.base),
            "busybox": {platform: folder / file for platform, file in build.publish.busybox.items()},
        }
    )
    update = {
        "source": _rebase(folder, build.source),
        "publish": publish,
        "quantize": _near(folder, build.quantize),
        "evaluate": _beside(folder, build.evaluate),
    }
    return build.model_copy(update=update)


def _rebase(folder: Path, model: str) -> str:
    model = model if "://" in model else _rebase_layout(folder, model)
    return model if model.startswith("oci:") or "://" in model else str(folder / model)


def _beside(folder: Path, said: Evaluate) -> Evaluate:
    """The suite, its files, the data and the baseline from the folder, where they are there."""
    suite = said.suite
    if isinstance(suite, str):
        suite = str(folder / suite) if suite.endswith((".yaml", ".yml")) or "/" in suite else suite
    elif suite:
        suite = {key: str(folder / value) if _is_path(key, value) else value for key, value in suite.items()}
    data = _there(folder, said.data)
    report = folder / said.report if said.report else None
    baseline = _rebase(folder, said.baseline) if said.baseline else None
    return said.model_copy(update={"suite": suite, "data": data, "report": report, "baseline": baseline})


def _is_path(key: str, value: object) -> TypeGuard[str]:
    """Whether a value of a suite is a path; what is of another type is refused by whoever reads the suite."""
    return key in ("data", "include") and isinstance(value, str)


def _near(folder: Path, quantize: Quantize) -> Quantize:
    """The recipe and the data from the folder, where they are there: they may be names as well."""
    recipe, data = quantize.recipe, quantize.calibration.data
    if recipe and recipe.endswith((".yaml", ".yml")):
        recipe = str(folder / recipe)
    calibration = quantize.calibration.model_copy(update={"data": _there(folder, data)})
    return quantize.model_copy(update={"recipe": recipe, "calibration": calibration})


def _there(folder: Path, data: str | None) -> str | None:
    """The path of data in the folder; its name, if it is not there: it may be a dataset's."""
    return str(folder / data) if data and (folder / data).exists() else data


def _rebase_layout(folder: Path, reference: str) -> str:
    is_layout = reference.startswith("oci:") and not reference.startswith("oci://")
    return f"oci:{folder / reference.removeprefix('oci:')}" if is_layout else reference


def _explain(path: Path, error: ValidationError) -> UsageError:
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    path_to = ".".join(str(part) for part in first["loc"][:-1])
    if first["type"] == _OURS:
        said, found = first["ctx"], printable(str(first["input"]))[:100]
        what = f"{place}: {said['what']}"
        return UsageError(what, subject=str(path), expected=said["expected"], found=found, hint=said["hint"])
    if first["type"] != "extra_forbidden":
        found = first.get("input")
        message = _MESSAGES.get(first["type"], first["msg"])
        return UsageError(f"{place}: {message}", subject=str(path), found=repr(found)[:100])
    section = SECTIONS.get(path_to)
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


SECTIONS: dict[str, type[BaseModel]] = {
    "validate": Validate,
    "shard": Shard,
    "quantize": Quantize,
    "quantize.calibration": Calibration,
    "evaluate": Evaluate,
    "publish": Publish,
}
"""The keys whose values are maps, and what these hold."""


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a section as they are written in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def override(build: BuildFile, values: dict[str, Any]) -> BuildFile:
    """The build with the values that flags gave, by key, in place of its own."""
    merged: dict[str, Any] = {key: value for key, value in values.items() if key in BuildFile.model_fields}
    for name in ("validation", "shard", "quantize", "publish"):
        merged[name] = fill(getattr(build, name), values)
    said = of_evaluate(values)
    shared = ("device", "seed") if build.evaluate.suite or "suite" in said else ()
    merged["evaluate"] = fill(build.evaluate, {key: values[key] for key in shared if key in values} | said)
    return build.model_copy(update=merged)


_OF_EVALUATE = "evaluate_"
"""How the names of the flags begin that belong to `evaluate`, whose keys other sections have too."""


_READ: dict[str, Callable[[Any], Any]] = {"budget": parse_duration, "undecided": Undecided, "retain": parse_share}
"""How flags become values, where they are texts and the values are not."""


def of_evaluate(values: dict[str, Any]) -> dict[str, Any]:
    """Of the values that flags gave, those of `evaluate`, by its keys."""
    given = {key.removeprefix(_OF_EVALUATE): value for key, value in values.items() if key.startswith(_OF_EVALUATE)}
    return {key: _read_flag(key, value) for key, value in given.items() if value is not None}


def _read_flag(key: str, value: Any) -> Any:
    try:
        return _READ[key](value) if key in _READ else value
    except UsageError as error:
        error.subject = f"--{key}"
        raise


def fill(section: M, values: dict[str, Any]) -> M:
    """The section, and those in it, with the values that it has keys for."""
    update = {key: values[key] for key in type(section).model_fields.keys() & values.keys()}
    inner = {key: fill(value, values) for key, value in section if isinstance(value, BaseModel)}
    return section.model_copy(update={**inner, **update})
