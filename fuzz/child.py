"""Processes that answer questions, one line of JSON for each, and may die or hang over one."""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.parts.command import ROOT

MEMORY = 4 << 30
"""Bytes of address space of a child; what asks for more gets a MemoryError."""


class Child:
    """`python -m MODULE ARGUMENTS` as a process that is started when first asked, and again when it was lost."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the next question goes to a process that has answered before."""
        return self._process is not None

    def ask(self, question: str, seconds: float) -> dict[str, Any]:
        """The answer; `{"lost": why}` if none came within `seconds` or the process died, and then it is gone."""
        process = self._process = self._process or self._start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(question.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._lost()
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else b""
        if not line:
            return self._lost(f"no answer after {seconds} s" if not ready else "")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )

    def _lost(self, why: str = "") -> dict[str, Any]:
        process = self._process
        assert process
        if not why:
            why = f"its process died with {process.wait()}"
        self.close()
        return {"lost": why}


def serve(answer: Callable[[str], dict[str, Any]]) -> None:
    """Answer the questions on the standard input until it ends; what anything else prints goes nowhere."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        said.write(json.dumps(answer(line.decode().rstrip("\n"))).encode() + b"\n")
        said.flush()
