"""What a build is made of, as it is now: every input by its digest, before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packer.buildfile import BuildFile
from packer.lock import Entry, Layer, Outputs
from packer.pipeline import Build
from packer.sources import FolderSource, Source
from packer.state import State
from recipes.evaluation.evaluate import Evaluation
from recipes.quantize import Quantization
from recipes.versions import versions
from registry.descriptor import IMAGE_LAYER, Digest, digest_of
from registry.errors import UsageError
from registry.manifest import encode
from registry.memory import Memory, mark_of

TOOL = "tool "
"""How the kinds of inputs begin that are versions of packages."""


def pinned(build: Build, file: BuildFile, folder: Path) -> tuple[Build, dict[str, Entry]]:
    """The build, of the very revisions that its inputs are at now, and these inputs by kind."""
    _refuse_its_own_folder(build.source, folder)
    source, state = _at(build.source, build.memory)
    inputs = {
        "source": Entry(_name(file.source), state.digest, state.revision),
        "file": Entry("packer.yaml", _file_digest(file, folder)),
        "base": Entry(_portable(build.base.name, folder), build.base.digest or ""),
        "tool packer": Entry("packer", version("packer")),
    }
    baseline = build.baseline
    if baseline:
        baseline, known = _at(baseline, build.memory)
        inputs["baseline"] = Entry(_name(file.evaluate.baseline or ""), known.digest, known.revision)
    inputs |= _of_quantization(build.quantization) if build.quantization else {}
    inputs |= _of_evaluation(build.evaluation) if build.evaluation else {}
    return replace(build, source=source, baseline=baseline), inputs


def _refuse_its_own_folder(source: Source, folder: Path) -> None:
    """`UsageError` for a model's folder that has the build file in it, and so the lock: each build would be another."""
    if (
        isinstance(source, FolderSource)
        and not source.include
        and folder.resolve().is_relative_to(source.path.resolve())
    ):
        raise UsageError(
            "the model's folder has this build file in it, whose lock would become a part of the model",
            subject=str(folder),
            hint="put the model into a folder of its own, or say what to take of it with include:",
        )


def _file_digest(file: BuildFile, folder: Path) -> Digest:
    """Of all that the file says, but for where the report goes."""
    said = file.model_dump(mode="json", exclude={"evaluate": {"report"}})
    return digest_of(encode(_portable(said, folder)))


def used_by(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """The packages that measured, of what the stage told: which these are depends on the model's format."""
    said = stages.get("evaluate", {}).get("circumstances", {}).get("versions", {})
    return _tools({name: of for name, of in said.items() if _version(name) == of})


def current(inputs: Mapping[str, Entry], locked: Mapping[str, Entry]) -> dict[str, Entry]:
    """The inputs, with the tools that are in the lock besides, in the versions that are here."""
    tools = {entry.name: _version(entry.name) for kind, entry in locked.items() if kind.startswith(TOOL)}
    return {**_tools(tools), **inputs}


def outputs(stages: Mapping[str, Mapping[str, Any]], folder: Path) -> Outputs:
    """What a build published, of what its stages told (`packer.results.Recorded`), as it is called from the folder."""
    release = stages["publish"]
    layers = [blob for blob in stages["package"]["blobs"] if blob["mediaType"] == IMAGE_LAYER and "path" in blob]
    return Outputs(
        image=_portable(release["image"], folder),
        modelpack=_portable(release["modelpack"], folder),
        scorecard=_portable(release["scorecard"], folder),
        tags=tuple(release["tags"]),
        layers=tuple(Layer(blob["path"], blob["digest"], blob["bytes"]) for blob in layers),
    )


def _at(source: Source, memory: Memory) -> tuple[Source, State]:
    state = source.state(lambda file: memory.digest(mark_of(file.blob), lambda: file.blob.descriptor.digest))
    return source.at(state), state


def _of_quantization(how: Quantization) -> dict[str, Entry]:
    found = {"recipe": Entry(how.recipe.name, how.recipe.digest)}
    if how.samples:
        found["calibration"] = Entry(how.samples.origin, how.samples.chosen)
    used = versions(how.recipe.engine, how.place.environment, reads_text=how.samples is not None)
    return found | _tools(used)


def _of_evaluation(how: Evaluation) -> dict[str, Entry]:
    found = {"suite": Entry(how.suite.name, how.suite.digest)}
    if how.samples:
        found["data"] = Entry(how.samples.origin, how.samples.chosen)
    return found


def _tools(used: Mapping[str, str]) -> dict[str, Entry]:
    return {f"{TOOL}{name}": Entry(name, of) for name, of in used.items()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _name(text: str) -> str:
    """A source as another machine would name it: a folder or a file by its last part."""
    return text if "://" in text else Path(text.removeprefix("oci:")).name


def _portable(value: Any, folder: Path) -> Any:
    """A document with the paths below a folder as they are seen from there."""
    if isinstance(value, dict):
        return {key: _portable(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner, folder) for inner in value]
    if isinstance(value, str):
        head = "oci:" if value.startswith("oci:") else ""
        return head + value.removeprefix(head).removeprefix(f"{folder}/")
    return value
