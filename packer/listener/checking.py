"""Whether anything that a build is made of has changed: asked in a process of its own, which may be ended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packer.listener.local import Story, parsed, rebuilding
from packer.lock import Entry, from_json

_CHANGED = 7
_BETWEEN = 1.0
"""Seconds after which a caller that waits is asked whether to go on."""

Inputs = Mapping[str, Mapping[str, Entry]]
"""The inputs of each variant, by its name."""


@dataclass(frozen=True)
class Checked:
    """What `packer rebuild --check` says: its exit code, what has changed in words, and the inputs as they are now.

    `error` is a line, empty unless the code is another than 0 and 7.
    """

    code: int
    changed: Sequence[str]
    inputs: Inputs
    error: str = ""

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer."""
        return self.code in (0, _CHANGED)

    @property
    def digest(self) -> str:
        """Of all inputs, by what they are and not by where they were found."""
        found = {name: {kind: entry.value for kind, entry in of.items()} for name, of in self.inputs.items()}
        return sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def check(file: Path, environment: Mapping[str, str], pause: Callable[[], object]) -> Checked:
    """Ask for a build file. `pause` is called every second; what it raises ends the process, and is raised."""
    with TemporaryDirectory(prefix="check-") as folder:
        process = subprocess.Popen(
            rebuilding(file, Path(folder, "turn"), "--check"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
        )
        with process:
            try:
                return _read(_output(process, pause), process)
            finally:
                process.kill()


def _output(process: subprocess.Popen[bytes], pause: Callable[[], object]) -> bytes:
    while True:
        try:
            return process.communicate(timeout=_BETWEEN)[0]
        except subprocess.TimeoutExpired:
            pause()


def _read(output: bytes, process: subprocess.Popen[bytes]) -> Checked:
    story, inputs, code = Story(), dict[str, Mapping[str, Entry]](), process.returncode
    for event in map(parsed, output.splitlines()):
        story.read(event, _ignore)
        if event.get("event") == "check":
            inputs[event["variant"]] = from_json(event["inputs"])
    error = "" if code in (0, _CHANGED) else story.error or f"packer rebuild --check ended with code {code}"
    return Checked(code, tuple(story.changed), inputs, error)


def _ignore(step: Mapping[str, Any] | None = None, changed: Sequence[str] = ()) -> None:
    """For those who ask later."""
