"""The versions of what quantizes: the same model may become other bytes with other ones."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recipes.recipe import Engine
from registry.blob import FileBlob
from registry.errors import UsageError

_NEEDED = {
    Engine.LLMCOMPRESSOR: ("llmcompressor", "compressed-tensors", "torch", "transformers", "safetensors"),
    Engine.ONNXRUNTIME: ("onnxruntime", "onnx"),
    Engine.LLAMA: ("llama_cpp_python",),
}
_EXTRA = {Engine.LLMCOMPRESSOR: "quantize", Engine.ONNXRUNTIME: "onnx", Engine.LLAMA: "llama"}
TOOL = "llama-quantize"


_KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH")
_PATIENCE = 60.0
"""Seconds that the tool may take to say its version."""


def versions(engine: Engine, environment: Mapping[str, str], *, reads_text: bool = False) -> dict[str, str]:
    """The versions of an engine's libraries, by name; nothing is imported. `UsageError` if it is not installed.

    If it `reads_text`, what makes tokens of that counts too.
    """
    if engine is Engine.LLAMA and (tool := shutil.which(TOOL, path=environment.get("PATH"))):
        return {TOOL: _said_by(tool, {key: environment[key] for key in _KEPT if key in environment})}
    other = f", or put {TOOL} on the PATH" if engine is Engine.LLAMA else ""
    hint = f"pip install 'packer[{_EXTRA[engine]}]'{other}"
    return installed((*_NEEDED[engine], *["tokenizers"] * reads_text), engine.value, hint)


def installed(packages: Iterable[str], what: str, hint: str) -> dict[str, str]:
    """The versions of packages, by name; `UsageError` that `what` is not here if one is missing."""
    try:
        return {name: version(name) for name in packages}
    except PackageNotFoundError as error:
        raise UsageError(f"{what} is not here", found=f"no package {error.name}", hint=hint) from error


def _said_by(tool: str, environment: Mapping[str, str]) -> str:
    """What the tool says of its version; of one that says nothing, as builds of some systems, its own digest."""
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [tool, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
        for line in (done.stderr + done.stdout).splitlines():
            if line.startswith("version:") and (said := line.partition(":")[2].strip()):
                return said
    return FileBlob.at(Path(tool)).descriptor.digest
