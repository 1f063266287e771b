"""What counts as the version of an engine."""

from __future__ import annotations

import hashlib
import os
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from recipes import versions as module
from recipes.recipe import Engine
from recipes.versions import TOOL, versions


def tool(folder: Path, script: str) -> dict[str, str]:
    """An environment with a llama-quantize of one's own: no real one is slow to say its version, or says none."""
    path = folder / TOOL
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HF_TOKEN": "hf_secret", "LD_LIBRARY_PATH": "/nowhere"}


def test_a_tool_is_asked_without_our_secrets(tmp_path: Path) -> None:
    script = 'echo "version: ${HF_TOKEN:-none} ${LD_LIBRARY_PATH:-none}" >&2'
    assert versions(Engine.LLAMA, tool(tmp_path, script)) == {TOOL: "none /nowhere"}


def test_a_tool_that_says_nothing_or_nothing_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    for script in ("true", "exec sleep 60"):
        environment = tool(tmp_path, script)
        began = time.monotonic()
        digest = hashlib.sha256((tmp_path / TOOL).read_bytes()).hexdigest()
        assert versions(Engine.LLAMA, environment) == {TOOL: f"sha256:{digest}"}
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("engine", [Engine.LLMCOMPRESSOR, Engine.ONNXRUNTIME])
def test_what_makes_tokens_counts_where_there_is_text(engine: Engine) -> None:
    without = versions(engine, {})
    assert "tokenizers" not in without
    assert versions(engine, {}, reads_text=True) == {**without, "tokenizers": version("tokenizers")}
