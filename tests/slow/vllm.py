"""vLLM itself, in an environment of its own, serving a folder on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.parts.command import ROOT
from tests.parts.servers import reserved_port

PYTHON = ROOT / ".cache/clients/vllm/bin/python"
UP, ANSWER, DOWN = 600.0, 300.0, 60.0
"""Seconds that it may take to start, to answer and to end."""

_SIZE = ("--max-model-len", "256", "--enforce-eager")
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """The address of vLLM's server for the model in a folder; nothing is said to it about quantization."""
    with reserved_port() as port:
        command: list[str | Path] = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *_SIZE]
        place = ["--served-model-name", "it", "--host", "127.0.0.1", "--port", str(port)]
        address = f"127.0.0.1:{port}"
        with started([*command, *place], address, log):
            yield address


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], address: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A server of vLLM's, from when it answers; the variables that keep it small give way to `environment`.

    Yields the number of the session that all its processes are in.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=output,
            env={**os.environ, **_ENVIRONMENT, **(environment or {})},
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        _await(f"http://{address}/health", process, log)
        yield process.pid
    finally:
        _end(process)


def complete(address: str, prompt: str, tokens: int = 8, model: str = "it") -> str:
    """What the server says next, always the likeliest token."""
    asked = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}/v1/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=ANSWER) as answer:
        return str(json.load(answer)["choices"][0]["text"])


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-5000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"{url} never answered\n{log.read_text()[-5000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and then what is left of its session: the engine is a process of its own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=DOWN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
