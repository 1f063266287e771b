"""llama.cpp's own tools, which `scripts/llama.sh` fetches: they say what is a GGUF."""

from __future__ import annotations

from pathlib import Path

from tests.parts.command import ROOT, run

FOLDER = ROOT / ".cache" / "llama"


def gguf_split(*arguments: str | Path) -> str:
    """Run `llama-gguf-split`, with absolute paths, and return what it prints."""
    return _tool("llama-gguf-split", *arguments)


def generate(model: Path, prompt: str, tokens: int = 16) -> str:
    """What llama.cpp makes of a prompt, always the likeliest token, by one thread. A split's first part is a model."""
    quiet = ("--no-conversation", "--no-display-prompt", "--no-warmup", "--verbosity", "1")
    size = ("--ctx-size", "256", "--predict", str(tokens), "--threads", "1", "--temp", "0")
    return _tool("llama-completion", "--model", model, "--prompt", prompt, *size, *quiet)


def _tool(name: str, *arguments: str | Path) -> str:
    """Run a tool with the loader and the libraries that came with it, in the folder where it finds its backends."""
    backends = next(FOLDER.glob("usr/lib/*/ggml/backends*"))
    libraries = backends.parents[1]
    loader = next(libraries.glob("ld-linux*.so*"))
    path = f"{libraries}:{libraries / 'llama'}"
    return run(loader, "--library-path", path, FOLDER / "usr/bin" / name, *arguments, cwd=backends).stdout
