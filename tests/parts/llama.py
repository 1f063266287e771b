"""llama.cpp's own tools, which `scripts/llama.sh` fetches: they say what is a GGUF."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.parts.command import ROOT, run

FOLDER = ROOT / ".cache" / "llama"

CHARACTERS = 60
"""Of a generated text that are compared."""


def gguf_split(*arguments: str | Path) -> str:
    """Run `llama-gguf-split`, with absolute paths, and return what it prints."""
    return _tool("llama-gguf-split", *arguments)


def generate(model: Path, prompt: str) -> str:
    """What llama.cpp makes of a prompt, always the likeliest token, by one thread. A split's first part is a model.

    Only the first characters of more: another thread writes them, and what it has not written when the program ends is
    lost (https://github.com/ggml-org/llama.cpp/issues/22142).
    """
    quiet = ("--no-conversation", "--no-display-prompt", "--no-warmup", "--verbosity", "1")
    size = ("--ctx-size", "256", "--predict", "40", "--threads", "1", "--temp", "0")
    return _tool("llama-completion", "--model", model, "--prompt", prompt, *size, *quiet)[:CHARACTERS]


def quantize(*arguments: str | Path) -> str:
    """Run `llama-quantize`, with absolute paths."""
    return _tool("llama-quantize", *arguments)


def program(name: str, folder: Path) -> Path:
    """A program of that name in `folder`, to be found on PATH: the shell that starts it becomes the tool."""
    backends, command = _command(name)
    path = folder / name
    path.write_text(f'#!/bin/sh\ncd {shlex.quote(str(backends))} && exec {shlex.join(map(str, command))} "$@"\n')
    path.chmod(0o755)
    return path


def _tool(name: str, *arguments: str | Path) -> str:
    backends, command = _command(name)
    return run(*command, *arguments, cwd=backends).stdout


def _command(name: str) -> tuple[Path, list[str | Path]]:
    """The folder where a tool finds its backends, and how to start it: with the loader and libraries it came with."""
    backends = next(FOLDER.glob("usr/lib/*/ggml/backends*"))
    libraries = backends.parents[1]
    loader = next(libraries.glob("ld-linux*.so*"))
    return backends, [loader, "--library-path", f"{libraries}:{libraries / 'llama'}", FOLDER / "usr/bin" / name]
