"""`quantize:` of a build, and `packer quantize`: from what a user wrote to what the stage needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import packer.facts  # noqa: F401 - what is told of the values here
from formats.snapshot import ModelFile
from formats.text import printable
from packer.buildfile import Calibration, Quantize
from packer.datasets import data_name, find_data
from packer.reshard import refuse_inside, refuse_others, write
from packer.sources import Reach, parse_source
from packer.validate import Policy, validate
from packer.watch import Run
from recipes.calibration import Samples, read_samples
from recipes.quantize import Quantization, Quantized, Workplace, quantize
from recipes.recipe import Engine, find_recipe
from recipes.workshop import OURS
from registry.descriptor import Digest
from registry.errors import UsageError
from registry.folder import STAGING, Folder
from registry.memory import Memory, mark_of

_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def resolve_quantize(said: Quantize, workplace: Workplace) -> Quantization | None:
    """The quantization that is asked for, its recipe found and its samples chosen; None if none is.

    `UsageError` for a recipe, data or a device of which nothing is known; nothing heavy is loaded.
    """
    if not said.recipe:
        hint = "name one: packer recipes lists them"
        _refuse_idle(said, Quantize(), "nothing says by which recipe to quantize", hint)
        return None
    recipe = find_recipe(said.recipe)
    require_device(said.device)
    if not recipe.calibration:
        idle, hint = Quantize(device=said.device), "leave it out, or take a recipe that is calibrated"
        _refuse_idle(said, idle, f"the recipe {recipe.name} needs no calibration data", hint)
    samples = _samples(said.calibration) if recipe.calibration else None
    if samples and recipe.engine is not Engine.ONNXRUNTIME and any("inputs" in row for row in samples.rows):
        hint = "give rows of text"
        raise UsageError("rows with inputs are for ONNX models alone", subject=samples.origin, hint=hint)
    return Quantization(
        recipe=recipe,
        place=workplace,
        device=said.device,
        samples=samples,
        max_length=said.calibration.max_length,
        seed=said.calibration.seed,
    )


def require_device(text: str) -> None:
    """`UsageError` for what is no device, whichever there are."""
    if not _DEVICE.fullmatch(text):
        raise UsageError("this is no device", expected="auto, cpu, cuda or cuda:N", found=text)


def _refuse_misplaced(source: str, target: Path) -> None:
    """Refuse what `build` takes and this does not: a build file, and a layout to publish to."""
    if source.endswith((".yaml", ".yml")):
        raise UsageError("this is a build file", subject=source, hint="packer build FILE, with quantize: in it")
    if str(target).startswith("oci:"):
        hint = "packer build MODEL --to oci:FOLDER --quantize RECIPE"
        raise UsageError("a quantized model is written to a folder, not a layout", subject=str(target), hint=hint)


def _refuse_idle(said: Quantize, idle: Quantize, what: str, hint: str) -> None:
    """Refuse what would have no effect: values that are not those of `idle`."""
    given = {**dict(said.calibration), "device": said.device}
    other = {**dict(idle.calibration), "device": idle.device}
    if found := ", ".join(f"{_FLAGS.get(key, key)} {given[key]}" for key in given if given[key] != other[key]):
        raise UsageError(what, found=printable(found), hint=hint)


_FLAGS = {"data": "calibration", "max_length": "max-length"}
"""The names of values that are not those of their flags."""


def _samples(said: Calibration) -> Samples:
    """The chosen samples, whose origin is named as another machine would name it."""
    samples = read_samples(find_data(said.data) if said.data else None, said.samples, said.seed)
    return replace(samples, origin=data_name(said.data)) if said.data else samples


def workplace(folder: Path, environment: Mapping[str, str], memory: Memory, *, is_single: bool = False) -> Workplace:
    """Where it is done, with digests of files remembered."""

    def digest_of(file: ModelFile) -> Digest:
        return memory.digest(mark_of(file.blob), lambda: file.blob.descriptor.digest)

    return Workplace(folder, environment, digest_of, is_single)


def quantize_to(
    source: str,
    target: Path,
    said: Quantize,
    include: Sequence[str],
    reach: Reach,
    environment: Mapping[str, str],
    run: Run,
) -> tuple[Quantized, list[Path]]:
    """Write the model that `source` names to the folder `target`, quantized.

    It is made in the hidden folder in there, where another run goes on after a kill.
    """
    _refuse_misplaced(source, target)
    refuse_inside(target, source)
    place = workplace(target / STAGING, environment, reach.access.memory, is_single=True)
    how = resolve_quantize(said, place)
    assert how
    snapshot = run("fetch", lambda: parse_source(source, include, reach).fetch())
    refuse_others(target, snapshot)
    checkpoint = run("validate", validate, snapshot, Policy(allow_code=True))
    quantized = run("quantize", quantize, checkpoint, how)
    return quantized, run("write", write, quantized.checkpoint, Folder(target, spared=OURS))
