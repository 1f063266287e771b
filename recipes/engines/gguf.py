"""The engine `llama.cpp`: one GGUF model becomes another, whose tensors have llama.cpp's own types of fewer bits.

Settings: `type` is llama.cpp's name of a mixture, such as `Q8_0` or `Q4_K_M`; `requantize: true` takes a source that is
quantized already. Which tensor gets which type is llama.cpp's choice, and what it chose is read from the result.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.gguf import read_header
from formats.gguf_split import SUFFIX
from formats.index import SHARD
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo
from recipes.engines.gguf_tool import Order, quantize
from recipes.task import PARTIAL, Done, Module, Task, Tell, settle, whole_file
from registry.blob import FileBlob
from registry.errors import ModelError, UsageError

PLAIN = frozenset({"F16", "BF16", "F32", "F64", "I8", "I16", "I32", "I64"})
"""Types of tensors that are not quantized."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Short names that llama-quantize knows too."""

_TYPE_WORD = re.compile(r"(?<![^._-])(?:bf16|fp?16|fp?32)(?![^._-])", re.IGNORECASE)


def run(task: Task, tell: Tell) -> Done:
    """Quantize the GGUF model in `task.files`, one file or all parts of a split, which stays one of as many parts.

    `UsageError` for settings that are not as told above, files that are not one GGUF model, a source that is quantized
    already, or if llama.cpp is not installed; `ModelError` if it fails; `SpaceError` if it is killed or
    cannot write.
    """
    kind, number, requantize = _settings(task.settings)
    files = _one_model(task.files)
    source = _tensors(task.source, files)
    if not requantize:
        _refuse_quantized(files[0], source)
    order = Order(
        task.source / files[0], task.target / result_name(files[0], kind), kind, number, requantize=requantize
    )
    made, result = _split(order, files, tell) if SHARD.fullmatch(files[0]) else _whole(order, tell)
    folder = files[0][: files[0].rfind("/") + 1]
    names = {name: tuple(folder + each for each in made) if name == files[0] else () for name in files}
    return Done(names, tuple(_modules(source, result)))


def result_name(name: str, kind: str) -> str:
    """The name of what a file becomes: the last word for its type (F16, FP16, BF16, F32) is replaced, or one is added.

    `model-F16.gguf` becomes `model-Q8_0.gguf`, and `model.gguf` becomes `model-Q8_0.gguf`. A split's parts lose their
    numbers, which llama.cpp gives again.
    """
    folder, slash, base = name.rpartition("/")
    part = SHARD.fullmatch(base)
    stem = part[1][:-1] if part else base[: -len(SUFFIX)]
    words = list(_TYPE_WORD.finditer(stem))
    stem = f"{stem[: words[-1].start()]}{kind}{stem[words[-1].end() :]}" if words else f"{stem}-{kind}"
    return f"{folder}{slash}{stem}{SUFFIX}"


def known_types() -> dict[str, int]:
    """llama.cpp's names of the mixtures that quantize, and its numbers for them (`enum llama_ftype`)."""
    from gguf import LlamaFileType

    types = {each.name.removeprefix("MOSTLY_"): int(each) for each in LlamaFileType if each.name.startswith("MOSTLY_")}
    return {name: number for name, number in types.items() if name not in PLAIN}


def _settings(settings: Mapping[str, Any]) -> tuple[str, int, bool]:
    """The type's name, its number, and whether a quantized source is welcome."""
    if unknown := sorted(set(settings) - {"type", "requantize"}):
        raise UsageError(
            "the engine llama.cpp has no such option", expected="type, requantize", found=", ".join(unknown)
        )
    types, given = known_types(), settings.get("type")
    kind = given.upper() if isinstance(given, str) else ""
    kind = ALIASES.get(kind, kind)
    if kind not in types:
        raise UsageError("llama.cpp has no such type", subject="type", expected=", ".join(sorted(types)), found=given)
    requantize = settings.get("requantize", False)
    if not isinstance(requantize, bool):
        raise UsageError("this is true or false", subject="requantize", found=requantize)
    return kind, types[kind], requantize


def _one_model(names: Sequence[str]) -> tuple[str, ...]:
    """The names in order, if they are one model: one file, or a split's parts, all of them."""
    files = tuple(sorted(names))
    parts = [SHARD.fullmatch(name) for name in files]
    models = {(part[1], part[3]) if part else (name, "1") for name, part in zip(files, parts, strict=True)}
    if not all(name.lower().endswith(SUFFIX) for name in files) or [int(total) for _, total in models] != [len(files)]:
        raise UsageError(
            "llama.cpp quantizes one GGUF model at a time",
            expected="one .gguf file, or all parts of one split",
            found=", ".join(files) or "nothing",
            hint="choose one with --include",
        )
    return files


def _tensors(folder: Path, names: Sequence[str]) -> dict[str, TensorInfo]:
    """All tensors by name; `RejectedError` for a file that is no GGUF."""
    headers = (read_header(ModelFile.of(name, FileBlob.at(folder / name))) for name in names)
    return {tensor.name: tensor for header in headers for tensor in header.tensors}


def _refuse_quantized(name: str, tensors: Mapping[str, TensorInfo]) -> None:
    quantized = next((tensor for tensor in tensors.values() if tensor.dtype not in PLAIN), None)
    if quantized:
        raise UsageError(
            "the model is quantized already: once more costs more quality than once from the original",
            subject=name,
            expected="tensors of F32, F16 or BF16",
            found=f"{quantized.name} of {quantized.dtype}",
            hint="start from an F16 or BF16 file of the model, or set requantize: true",
        )


def _whole(order: Order, tell: Tell) -> tuple[list[str], dict[str, TensorInfo]]:
    """The name of the one file, and its tensors."""
    with whole_file(order.target) as scratch:
        quantize(order.to(scratch), tell)
        result = _header_of(order.target.name, scratch)
    return [order.target.name], result


def _header_of(name: str, path: Path) -> dict[str, TensorInfo]:
    return {tensor.name: tensor for tensor in read_header(ModelFile.of(name, FileBlob.at(path))).tensors}


def _split(order: Order, files: Sequence[str], tell: Tell) -> tuple[list[str], dict[str, TensorInfo]]:
    """The names of the parts, and all their tensors. The first part, which makes it a model, appears last."""
    folder = order.target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as name:
        scratch = Path(name)
        quantize(order.to(scratch / order.target.name, keep_split=True), tell)
        made = sorted(path.name for path in scratch.iterdir())
        if len(made) != len(files):
            raise ModelError(
                "llama.cpp made another number of parts",
                subject=files[0],
                expected=f"{len(files)} files",
                found=", ".join(made) or "none",
            )
        result = _tensors(scratch, made)
        for part in reversed(made):
            settle(scratch / part, folder / part)
    return made, result


def _modules(source: Mapping[str, TensorInfo], result: Mapping[str, TensorInfo]) -> Iterator[Module]:
    """What became of each tensor, in the source's order; `ModelError` if one is missing."""
    for name, before in source.items():
        after = result.get(name)
        if after is None:
            raise ModelError("llama.cpp left this tensor out", subject=name)
        quantized = after.dtype not in PLAIN
        yield Module(name, scheme=after.dtype) if quantized else Module(name, why=_why(before, after))


def _why(before: TensorInfo, after: TensorInfo) -> str:
    kept = f"llama.cpp keeps it in {after.dtype}" if after.dtype == before.dtype else f"llama.cpp made it {after.dtype}"
    return f"{kept}: one-dimensional" if len(before.shape) < 2 else kept
