"""Which files of a repository make the model: one format's weights, and what goes with them."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from formats.examine import FORMATS
from formats.pickle import NAMES as PICKLES
from registry.errors import ModelError, UsageError
from registry.names import matches

_BESIDE = {".onnx": ("*.onnx_data*", "*.onnx.data*")}
"""What a format of ours keeps beside its files; it goes where they go."""

_FOREIGN = (
    *(f"*{suffix}" for suffix in sorted(PICKLES)),
    *("*.h5", "*.keras", "*.msgpack", "*.tflite", "*.litertlm", "*.ot", "*.mlmodel", "*.pdparams", "*.pte", "*.ggml"),
    *("openvino*", "*/openvino*", "*saved_model.pb", "*variables/variables.*", "*.ckpt.*", "*.ckpt-*"),
)
"""Weights for other frameworks, which repositories carry besides a format of ours."""

_FOREIGN_FOLDERS = frozenset(("onnx", "openvino", "coreml", "original"))
"""Where repositories keep a second model whole, with its configuration, beside the one in their root."""

_BUNDLES = (".mlpackage", ".mlmodelc")
"""Core ML's models, which are folders."""

_MODEL = re.compile(r"model(-\d{5,}-of-\d{5,})?\.safetensors")
_CONSOLIDATED = re.compile(r"consolidated\b[^/]*\.safetensors(\.index\.json)?")
"""Mistral's and Meta's own names for tensors that `model*.safetensors` has under the names of transformers."""

_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
"""What stands behind the weights' name in that of their index; diffusers names a variant there."""
_PICKLED_WEIGHTS = ("pytorch_model*.bin", "adapter_model*.bin")
_SHOWN = 8
"""Files that are named where none matches."""

_MAX_GLOBS = 8
"""What a hint names at most before it says to take everything."""


def choose(names: Sequence[str], include: Sequence[str], origin: str) -> list[str]:
    """The files of a repository that make a model: those that match `include`, or one weight format and its company.

    safetensors come before GGUF and GGUF before ONNX. Of several GGUF variants none is guessed.
    """
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if include:
        chosen = included(visible, include, origin)
    else:
        best = next((suffix for suffix in FORMATS if any(_suffix(name) == suffix for name in visible)), "")
        if not best:
            raise _no_weights(visible, origin)
        chosen = _without_twins(_company(visible, best))
        _refuse_variants(chosen, best, origin)
    return chosen


def included(names: Sequence[str], include: Sequence[str], origin: str) -> list[str]:
    """The names that match a glob, all without globs; `UsageError` that tells what is there if none does."""
    if (chosen := [name for name in names if matches(name, include)]) or not include:
        return chosen
    there = sorted(names)
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    raise UsageError(
        "no file matches --include",
        subject=origin,
        expected=", ".join(include),
        found=", ".join(there[:_SHOWN]) + more or "no files",
        hint="globs match the whole path, and * reaches over slashes",
    )


def _company(names: Sequence[str], best: str) -> list[str]:
    """The files in the format `best`, and those that are no weights in another one.

    A folder for another framework is left out whole, if the format is outside such folders too.
    """
    own = [name for name in names if not _is_foreign(name, best)]
    outside = [name for name in own if not _is_in_foreign_folder(name)]
    return outside if any(_suffix(name) == best for name in outside) else own


def _is_foreign(name: str, best: str) -> bool:
    """Whether it holds weights in another format than `best`, or is their index."""
    name = _INDEX.sub("", name.lower())
    if any(part.endswith(_BUNDLES) for part in name.split("/")):
        return True
    if _suffix(name) in FORMATS:
        return _suffix(name) != best
    beside = (pattern for suffix, patterns in _BESIDE.items() if suffix != best for pattern in patterns)
    return matches(name, (*_FOREIGN, *beside))


def _is_in_foreign_folder(name: str) -> bool:
    return not _FOREIGN_FOLDERS.isdisjoint(name.lower().split("/")[:-1])


def _without_twins(names: Sequence[str]) -> list[str]:
    """The files without consolidated safetensors where `model*.safetensors` beside them hold the same."""
    paths = {name: PurePosixPath(name) for name in names}
    folders = {path.parent for path in paths.values() if _MODEL.fullmatch(path.name)}
    return [
        name for name, path in paths.items() if path.parent not in folders or not _CONSOLIDATED.fullmatch(path.name)
    ]


def _no_weights(names: Sequence[str], origin: str) -> ModelError:
    """Why none is chosen, and how pickles, if they are all there is, are taken after all."""
    pickles = [name for name in names if _suffix(name) in PICKLES and not matches(name.lower(), ("*openvino*",))]
    return ModelError(
        "this repository has only pickles, which run code when loaded" if pickles else "no weights are here",
        subject=origin,
        expected=" or ".join(FORMATS),
        found=", ".join((pickles or list(names))[:5]) or "no files",
        hint="look for a revision or a sibling repository with safetensors"
        + (f", or build with --pickle convert {_flags(_globs(names, pickles))}" if pickles else ""),
    )


def _globs(names: Sequence[str], pickles: Sequence[str]) -> list[str]:
    """Globs that match the pickled weights and everything that goes with them."""
    weights = [pattern for pattern in _PICKLED_WEIGHTS if any(matches(name, (pattern,)) for name in pickles)]
    company = (name for name in names if not _is_foreign(name, best=""))
    globs = [*(weights[:1] or sorted({_kind(name) for name in pickles})), *sorted({_kind(name) for name in company})]
    return globs if len(globs) <= _MAX_GLOBS else ["*"]


def _kind(name: str) -> str:
    """The glob for everything with the same extension; for what has none, the path alone."""
    suffix = PurePosixPath(name).suffix
    return f"*{glob.escape(suffix)}" if suffix else glob.escape(name)


def _flags(globs: Iterable[str]) -> str:
    return " ".join(f"--include {shlex.quote(pattern)}" for pattern in globs)


def _refuse_variants(names: Sequence[str], best: str, origin: str) -> None:
    variants = {re.sub(r"-\d{5,}-of-\d{5,}(?=\.gguf$)", "", name) for name in names if _suffix(name) == ".gguf"}
    if best == ".gguf" and len(variants) > 1:
        raise UsageError(
            "this repository has several GGUF variants",
            subject=origin,
            found=", ".join(sorted(variants)[:12]),
            hint="choose one with --include, such as --include '*Q4_K_M*'",
        )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
