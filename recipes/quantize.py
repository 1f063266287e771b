"""The stage `quantize`: from a checkpoint to one in fewer bits, which everything else of the model goes along with.

A child process does the work, in a folder that is named for everything that the result depends on. What is whole in
there when a build is killed is not made again, and a result that is whole is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from formats.checkpoint import Checkpoint
from formats.findings import RejectedError, errors
from formats.identity import is_document
from formats.scale_values import check_scale_values
from formats.snapshot import ModelFile
from recipes.account import Account, Calibration
from recipes.calibration import Samples
from recipes.child import Answer, run_child
from recipes.engines.devices import kind_of
from recipes.fit import CONFIG, require_fit, weight_files
from recipes.recipe import Engine, Recipe
from recipes.result import quantized_snapshot
from recipes.size import room
from recipes.task import Step, Task, Tell
from recipes.versions import versions
from recipes.workshop import Workshop
from registry.blob import file_of
from registry.descriptor import Digest, digest_of

VERSION = 1
"""Of what the same recipe makes of the same model; another one has every model quantized again."""

_WEIGHTS = frozenset((".safetensors", ".gguf", ".onnx", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))
"""How the names of weights end, some of which no recipe reads."""


def untold(_: Step | str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Workplace:
    """Where it is done: `folder` has a folder for each result, or is that of the only one if it `is_single`.

    `environment` is ours, of which the child gets what it needs; `digest_of` tells a file's digest, remembered or
    computed.
    """

    folder: Path
    environment: Mapping[str, str]
    digest_of: Callable[[ModelFile], Digest]
    is_single: bool = False


@dataclass(frozen=True)
class Quantization:
    """How a model is quantized. `samples` are there if the recipe needs some; `device` is `auto`, `cpu` or `cuda[:N]`.

    Each sample is cut to `max_length` tokens; `seed` is the one that chose them. `tell` is told how far it is.
    """

    recipe: Recipe
    place: Workplace
    device: str = "auto"
    samples: Samples | None = None
    max_length: int = 2048
    seed: int = 0
    tell: Tell = field(default=untold, compare=False)


@dataclass(frozen=True)
class Quantized:
    """The checkpoint that came out, and the account of how."""

    checkpoint: Checkpoint
    account: Account


def quantize(checkpoint: Checkpoint, how: Quantization) -> Quantized:
    """The stage: the model in fewer bits, with all that it had besides its weights.

    Names and the layout of shards follow the source; a file in which nothing was quantized is the source's own.
    `UsageError` if the recipe does not fit, `SpaceError` if memory or disk do not suffice, `ModelError` if nothing
    right came out of it.
    """
    require_fit(how.recipe, checkpoint)
    used = versions(how.recipe.engine, how.place.environment, reads_text=how.samples is not None)
    workshop = _workshop(checkpoint, how, used)
    with workshop.opened(how.tell):
        if known := workshop.recorded():
            try:
                return _proved(checkpoint, how, used, known, workshop, is_new=False)
            except RejectedError as error:
                how.tell(f"what another run made is damaged, and is made again: {error.what}")
                workshop.empty()
        made = _made(checkpoint, how, workshop)
        try:
            result = _proved(checkpoint, how, used, made, workshop, is_new=True)
        except RejectedError:
            workshop.empty()
            raise
        workshop.record(made)
    return result


def _proved(
    checkpoint: Checkpoint,
    how: Quantization,
    used: Mapping[str, str],
    answer: Answer,
    workshop: Workshop,
    *,
    is_new: bool,
) -> Quantized:
    """What lies in the workshop, as a model; `RejectedError` if it is none, or its scales are wrong."""
    account = _account(checkpoint, how, used, answer, is_new=is_new)
    result = Checkpoint(quantized_snapshot(checkpoint, answer.done, workshop.folder, account), allow_code=True)
    if wrong := errors(check_scale_values(result)):
        raise RejectedError(*wrong)
    return Quantized(result, account)


def _workshop(checkpoint: Checkpoint, how: Quantization, used: Mapping[str, str]) -> Workshop:
    """The folder for this result: it is named for everything that the bytes depend on."""
    needed = {file.name for file in weight_files(how.recipe, checkpoint)}
    files = [file for file in checkpoint.snapshot.files if file.name in needed or _steers(file, checkpoint, how)]
    known = {
        "version": VERSION,
        "engine": how.recipe.engine.value,
        "settings": json.dumps(how.recipe.settings, default=str),  # in their order, which counts
        "versions": used,
        "kind": _kind(how),
        "files": {file.name: how.place.digest_of(file) for file in files},
        "samples": how.samples.chosen if how.samples else None,
        "max_length": how.max_length if how.samples else None,
    }
    key = digest_of(json.dumps(known, sort_keys=True).encode()).partition(":")[2]
    return Workshop(how.place.folder if how.place.is_single else how.place.folder / key, key, how.place.is_single)


def _kind(how: Quantization) -> str:
    """What is expected to compute: of the engines only llmcompressor uses GPUs."""
    uses_gpus = how.recipe.engine is Engine.LLMCOMPRESSOR
    return kind_of(how.device, how.place.environment) if uses_gpus else "cpu"


def _steers(file: ModelFile, checkpoint: Checkpoint, how: Quantization) -> bool:
    """Whether a file besides the weights counts: the config, and with samples all that may have a part in tokens."""
    if not how.samples or file.name == CONFIG:
        return file.name == CONFIG
    return not is_document(file) and file.name not in checkpoint.weights and file.suffix not in _WEIGHTS


def _made(checkpoint: Checkpoint, how: Quantization, workshop: Workshop) -> Answer:
    """Have it done by a child, in the workshop."""
    names = tuple(file.name for file in weight_files(how.recipe, checkpoint))
    _require_room(checkpoint, how, workshop)
    with workshop.source(checkpoint.snapshot) as source:
        samples = workshop.keep(how.samples) if how.samples else None
        task = Task(
            engine=how.recipe.engine.value,
            settings=how.recipe.settings,
            source=source,
            target=workshop.folder,
            files=names,
            device=how.device,
            samples=samples,
            max_length=how.max_length,
        )
        return run_child(task, how.place.environment, how.tell)


def _require_room(checkpoint: Checkpoint, how: Quantization, workshop: Workshop) -> None:
    """`SpaceError` if the disk does not suffice: for what the engine makes, for a source that is no file yet, and for
    what goes along with the only result.
    """
    names = {file.name for file in weight_files(how.recipe, checkpoint)}
    files = checkpoint.snapshot.files
    loose = sum(file.size for file in files if not file_of(file.blob))
    rest = sum(file.size for file in files if file.name not in names) if workshop.is_single else 0
    workshop.require_room(room(how.recipe, checkpoint) + loose + rest, () if how.recipe.calibration else names)


def _account(
    checkpoint: Checkpoint, how: Quantization, used: Mapping[str, str], answer: Answer, *, is_new: bool
) -> Account:
    names = {file.name for file in weight_files(how.recipe, checkpoint)}
    sizes = {file.name: file.size for file in checkpoint.snapshot.files}
    return Account(
        recipe=how.recipe.name,
        description=how.recipe.description,
        engine=how.recipe.engine.value,
        hardware=how.recipe.hardware,
        versions=used,
        kind=answer.kind,
        calibration=_calibration(how) if how.samples else None,
        modules=answer.done.modules,
        before=sum(sizes[name] for name in names),
        after=answer.size + sum(sizes[name] for name in names - answer.done.files.keys()),
        seconds=answer.seconds,
        host=answer.host,
        device=answer.device,
        is_new=is_new,
    )


def _calibration(how: Quantization) -> Calibration:
    samples = how.samples
    assert samples
    return Calibration(samples.origin, samples.digest, len(samples.rows), samples.chosen, how.max_length, how.seed)
