"""From a build file to the workflow that builds its models on GitHub."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

from containers.ci.github import GHCR, Workflow, output_of
from packer.buildfile import BuildFile, Pickles
from recipes.recipe import Engine, find_recipe
from registry.errors import UsageError
from registry.reference import LayoutReference, Reference, is_loopback, parse_reference

HERE = "./"
"""The action of the repository that the workflow lies in."""

_EXTRAS = {Engine.LLMCOMPRESSOR: "quantize", Engine.ONNXRUNTIME: "onnx", Engine.LLAMA: "llama"}
_ACTION = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?@[\w./-]+|\./[\w./-]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_CRON = re.compile(r"\S+( \S+){4}")


def plan_workflow(builds: Mapping[str, BuildFile], file: str, name: str, action: str) -> Workflow:
    """What the workflow of these builds is made of: `file` is the build file as it lies in the repository.

    `UsageError` where a runner cannot do it.
    """
    places = {variant: _destination(build, file) for variant, build in builds.items()}
    first = next(iter(places.values()))
    if len({place.host for place in places.values()}) > 1:
        found = ", ".join(sorted({place.host for place in places.values()}))
        raise UsageError("the variants go to several registries", subject=file, expected="one login", found=found)
    _require_apart(tuple(filter(None, builds)), file)
    name = name or first.repository.rpartition("/")[2]
    _require(_NAME, name, "a workflow's file has a name of letters, digits, '_', '.' and '-'")
    _require(_ACTION, action, "this is no action", "OWNER/REPO@COMMIT, or ./ in packer's own repository")
    return Workflow(
        name=name,
        file=file,
        place=f"{first.host}/{first.repository}",
        action=action,
        registry="" if is_loopback(first.host) else first.host,
        variants=tuple(filter(None, builds)),
        extras=tuple(sorted({extra for build in builds.values() for extra in needed(build)})),
        asks_hub=any(build.source.startswith("hf://") for build in builds.values()),
    )


def checked_schedule(cron: str) -> str:
    """Five fields of cron, or nothing."""
    if cron:
        _require(_CRON, cron, "this is no schedule", "five fields of cron in UTC, such as '17 4 * * 1'")
    return cron


def needed(build: BuildFile) -> Collection[str]:
    """The extras that packer must be installed with for a build."""
    extras = []
    if build.validation.pickle is Pickles.CONVERT:
        extras.append("convert")
    if build.quantize.recipe:
        extras.append(_EXTRAS[find_recipe(build.quantize.recipe).engine])
    if build.evaluate.suite:
        extras.append("evaluate")
        if build.source.endswith(".gguf"):
            extras.append("llama")
        if build.source.endswith(".onnx"):
            extras.append("onnx")
    return extras


def installed_from() -> str:
    """OWNER/REPO@COMMIT of GitHub that this packer was installed from; empty if it was installed from elsewhere.

    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    try:
        origin = json.loads(distribution("packer").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    url, commit = urlsplit(str(origin.get("url", ""))), origin.get("vcs_info", {}).get("commit_id", "")
    place = url.path.strip("/").removesuffix(".git")
    return f"{place}@{commit}" if url.hostname == "github.com" and commit else ""


def in_repository(file: Path, root: Path) -> str:
    """The path of a file from the root of a repository; `UsageError` if it lies elsewhere."""
    inner = file.resolve()
    if not inner.is_relative_to(root.resolve()):
        hint = "put the build file into the repository, and give the repository's root as --out"
        raise UsageError("the build file lies outside of the repository", subject=str(file), found=str(root), hint=hint)
    return inner.relative_to(root.resolve()).as_posix()


def _destination(build: BuildFile, file: str) -> Reference:
    to = parse_reference(build.publish.to) if build.publish.to else None
    if to is None or isinstance(to, LayoutReference):
        raise UsageError(
            "a runner keeps nothing when its job ends, so that the result must go to a registry",
            subject=file,
            expected=f"publish: {{to: {GHCR}/OWNER/REPO:TAG}}",
            found=build.publish.to or "no publish.to",
        )
    return to


def _require_apart(variants: Sequence[str], file: str) -> None:
    """That no two have the same name in the outputs of a job; GitHub takes small and capital letters for the same."""
    for number, variant in enumerate(variants):
        same = [other for other in variants[:number] if output_of(other).lower() == output_of(variant).lower()]
        if same:
            raise UsageError(
                "two variants would have the same outputs in GitHub, where dots become '_' and letters have no case",
                subject=file,
                found=f"{same[0]}, {variant}",
                hint="call one of them otherwise",
            )


def _require(pattern: re.Pattern[str], text: str, what: str, expected: str | None = None) -> None:
    if not pattern.fullmatch(text):
        raise UsageError(what, expected=expected, found=text[:100])
